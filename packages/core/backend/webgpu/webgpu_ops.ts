/**
 * The ops on WebGPU: shape checks, then the kernels. `matmul` checks by itself, since it needs the dims.
 *
 * @module
 */

import type { Tensor } from "../../tensor/tensor.ts";
import { checkAttention, checkAttentionBackward, checkAttentionDelta } from "../check_attention.ts";
import { checkAdamW, checkClipFactor, checkSum, checkSumSquares } from "../check_optimizer.ts";
import * as check from "../check_shapes.ts";
import type {
  AdamWOptions,
  AttentionInputs,
  AttentionShape,
  ClipOptions,
  InitNormalOptions,
  MatmulOptions,
  Ops,
  RmsNormOptions,
  RopeOptions,
} from "../ops.ts";
import type { CommandQueue } from "./command_queue.ts";
import { adamw } from "./kernels/adamw.ts";
import { attention } from "./kernels/attention.ts";
import { attentionBackward } from "./kernels/attention_backward.ts";
import { attentionDelta } from "./kernels/attention_delta.ts";
import { copyColumns } from "./kernels/columns.ts";
import { crossEntropy } from "./kernels/cross_entropy.ts";
import { add, cast, copy, fill, scale } from "./kernels/elementwise.ts";
import { embedding, embeddingBackward } from "./kernels/embedding.ts";
import { crossEntropyGradient, logSumExp } from "./kernels/vocabulary_softmax.ts";
import { gatedActivation, gatedActivationBackward } from "./kernels/gated_activation.ts";
import { initNormal } from "./kernels/init_normal.ts";
import { matmul } from "./kernels/matmul.ts";
import { clipFactor, sum, sumSquares } from "./kernels/reductions.ts";
import { rmsNorm } from "./kernels/rms_norm.ts";
import { rmsNormBackward } from "./kernels/rms_norm_backward.ts";
import { rope } from "./kernels/rope.ts";

/** The {@linkcode Ops} of the WebGPU backend. Calls encode work and return. */
export class WebGpuOps implements Ops {
  readonly #queue: CommandQueue;

  /** @param queue where the work is encoded */
  constructor(queue: CommandQueue) {
    this.#queue = queue;
  }

  matmul(a: Tensor, b: Tensor, out: Tensor, options: MatmulOptions = {}): void {
    matmul(this.#queue, a, b, out, options);
  }

  embedding(ids: Tensor, table: Tensor, out: Tensor): void {
    check.checkEmbedding(ids, table, out);
    embedding(this.#queue, ids, table, out);
  }

  embeddingBackward(order: Tensor, segments: Tensor, dOut: Tensor, dTable: Tensor): void {
    check.checkEmbeddingBackward(order, segments, dOut, dTable);
    embeddingBackward(this.#queue, order, segments, dOut, dTable);
  }

  rmsNorm(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    rstd: Tensor,
    epsilon: number,
    options: RmsNormOptions = {},
  ): void {
    check.checkRmsNorm(x, weight, out, rstd, epsilon, options);
    rmsNorm(this.#queue, { x, weight, out, rstd, add: options.add }, epsilon);
  }

  rmsNormBackward(x: Tensor, weight: Tensor, rstd: Tensor, dOut: Tensor, dx: Tensor, dWeight?: Tensor): void {
    check.checkRmsNormBackward(x, weight, rstd, dOut, dx, dWeight);
    rmsNormBackward(this.#queue, { x, weight, rstd, dOut, dx, dWeight });
  }

  rope(x: Tensor, table: Tensor, heads: number, options: RopeOptions = {}): void {
    check.checkRope(x, table, heads, options);
    const { inverse = false, keys } = options;
    rope(this.#queue, [{ x, heads }, ...keys ? [keys] : []], table, inverse);
  }

  attention(
    inputs: AttentionInputs,
    out: Tensor,
    logSumExp: Tensor,
    shape: AttentionShape,
    options: { resume?: boolean } = {},
  ): void {
    checkAttention(inputs, out, logSumExp, shape);
    attention(this.#queue, inputs, out, logSumExp, shape, options);
  }

  attentionDelta(out: Tensor, dOut: Tensor, delta: Tensor, heads: number): void {
    checkAttentionDelta(out, dOut, delta, heads);
    attentionDelta(this.#queue, { out, dOut, delta }, heads);
  }

  attentionBackward(
    inputs: AttentionInputs,
    dOut: Tensor,
    logSumExp: Tensor,
    delta: Tensor,
    gradients: { dq: Tensor; dk: Tensor; dv: Tensor },
    shape: AttentionShape,
  ): void {
    checkAttentionBackward(inputs, dOut, logSumExp, delta, gradients, shape);
    attentionBackward(this.#queue, inputs, dOut, logSumExp, delta, gradients, shape);
  }

  gatedActivation(gate: Tensor, up: Tensor, out: Tensor): void {
    check.checkGatedActivation(gate, up, out);
    gatedActivation(this.#queue, gate, up, out);
  }

  gatedActivationBackward(gate: Tensor, up: Tensor, dOut: Tensor): void {
    check.checkGatedActivationBackward(gate, up, dOut);
    gatedActivationBackward(this.#queue, gate, up, dOut);
  }

  crossEntropy(logits: Tensor, labels: Tensor, losses: Tensor, scale: number): void {
    check.checkCrossEntropy(logits, labels, losses);
    crossEntropy(this.#queue, { logits, labels, losses }, scale);
  }

  logSumExp(logits: Tensor, labels: Tensor, out: Tensor): void {
    check.checkLogSumExp(logits, labels, out);
    logSumExp(this.#queue, { logits, labels, out });
  }

  crossEntropyGradient(logits: Tensor, labels: Tensor, logSumExp: Tensor, scale: number): void {
    check.checkCrossEntropyGradient(logits, labels, logSumExp);
    crossEntropyGradient(this.#queue, { logits, labels, logSumExp }, scale);
  }

  sum(x: Tensor, out: Tensor): void {
    checkSum(x, out);
    if (x.size === 0) fill(this.#queue, out, 0);
    else sum(this.#queue, x, out);
  }

  sumSquares(x: Tensor, out: Tensor): void {
    checkSumSquares(x, out);
    sumSquares(this.#queue, x, out);
  }

  clipFactor(partials: Tensor, result: Tensor, maxNorm: number, options: ClipOptions = {}): void {
    checkClipFactor(partials, result, maxNorm, options);
    clipFactor(this.#queue, partials, result, maxNorm, options);
  }

  adamw(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, options: AdamWOptions, clip?: Tensor): void {
    checkAdamW(param, grad, m, v, options, clip);
    adamw(this.#queue, { param, grad, m, v, clip }, options);
  }

  add(x: Tensor, out: Tensor): void {
    check.checkAdd(x, out);
    add(this.#queue, x, out);
  }

  scale(x: Tensor, factor: number): void {
    check.checkScale(x);
    scale(this.#queue, x, factor);
  }

  fill(x: Tensor, value: number): void {
    check.checkFill(x);
    fill(this.#queue, x, value);
  }

  copy(x: Tensor, out: Tensor): void {
    check.checkCopy(x, out);
    copy(this.#queue, x, out);
  }

  cast(x: Tensor, out: Tensor): void {
    check.checkCast(x, out);
    cast(this.#queue, x, out);
  }

  copyColumns(
    x: Tensor,
    xColumn: number,
    out: Tensor,
    outColumn: number,
    columns: number,
    options: { accumulate?: boolean } = {},
  ): void {
    check.checkCopyColumns(x, xColumn, out, outColumn, columns);
    copyColumns(this.#queue, { x, xColumn, out, outColumn, columns }, options.accumulate ?? false);
  }

  initNormal(out: Tensor, options: InitNormalOptions): void {
    check.checkInitNormal(out, options);
    initNormal(this.#queue, out, options);
  }
}
