/**
 * The ops of the reference backend: check, unwrap the tensors, call the plain function.
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
import { adamw, roundStochastically } from "./adamw.ts";
import { attention, type AttentionArrays, attentionBackward, attentionDelta } from "./attention.ts";
import { copyColumns } from "./columns.ts";
import { crossEntropy, crossEntropyGradient, logSumExp } from "./cross_entropy.ts";
import { add, initNormal, scale } from "./elementwise.ts";
import { embedding, embeddingBackward } from "./embedding.ts";
import { gatedActivation, gatedActivationBackward } from "./gated_activation.ts";
import { matmul } from "./matmul.ts";
import { rmsNorm, rmsNormBackward } from "./norm.ts";
import type { OpTimer } from "./op_timer.ts";
import { clipFactor, sum, sumSquares } from "./reductions.ts";
import { rope } from "./rope.ts";
import { elementsOf, idsOf, OpNumbers } from "./storage.ts";

/** Plain TypeScript implementation of {@linkcode Ops} on tensors in host memory. Every op is done when it returns. */
export class ReferenceOps implements Ops {
  readonly #timer: OpTimer;

  /** @param timer runs every op, and may measure it */
  constructor(timer: OpTimer) {
    this.#timer = timer;
  }

  matmul(a: Tensor, b: Tensor, out: Tensor, options: MatmulOptions = {}): void {
    const dims = check.checkMatmul(a, b, out, options);
    const accumulate = options.accumulate ?? false;
    this.#run(`matmul ${dims.layout}`, (n) => matmul(n.of(a), n.of(b), n.into(out), dims, accumulate));
  }

  embedding(ids: Tensor, table: Tensor, out: Tensor): void {
    check.checkEmbedding(ids, table, out);
    this.#run("embedding", (n) => embedding(idsOf(ids), n.of(table), n.into(out), table.shape[1]));
  }

  embeddingBackward(order: Tensor, segments: Tensor, dOut: Tensor, dTable: Tensor): void {
    check.checkEmbeddingBackward(order, segments, dOut, dTable);
    this.#run(
      "embeddingBackward",
      (n) => embeddingBackward(idsOf(order), idsOf(segments), n.of(dOut), n.into(dTable), dTable.shape[1]),
    );
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
    if (options.add) this.add(options.add, x);
    this.#run("rmsNorm", (n) => rmsNorm(n.of(x), n.of(weight), n.into(out), n.into(rstd), epsilon));
  }

  rmsNormBackward(x: Tensor, weight: Tensor, rstd: Tensor, dOut: Tensor, dx: Tensor, dWeight?: Tensor): void {
    check.checkRmsNormBackward(x, weight, rstd, dOut, dx, dWeight);
    this.#run("rmsNormBackward", (n) => {
      const dWeights = dWeight && n.into(dWeight);
      rmsNormBackward(n.of(x), n.of(weight), n.of(rstd), n.of(dOut), n.into(dx), dWeights);
    });
  }

  rope(x: Tensor, table: Tensor, heads: number, options: RopeOptions = {}): void {
    const dims = check.checkRope(x, table, heads, options);
    const { inverse = false, keys } = options;
    this.#run("rope", (n) => {
      for (const each of keys ? [x, keys.x] : [x]) rope(n.into(each), n.of(table), dims, inverse);
    });
  }

  attention(
    inputs: AttentionInputs,
    out: Tensor,
    logSumExp: Tensor,
    shape: AttentionShape,
    options: { resume?: boolean } = {},
  ): void {
    const dims = checkAttention(inputs, out, logSumExp, shape);
    const resume = options.resume ?? false;
    this.#run(
      "attention",
      (n) => attention(attentionArrays(n, inputs), n.into(out), n.into(logSumExp), shape, dims, resume),
    );
  }

  attentionDelta(out: Tensor, dOut: Tensor, delta: Tensor, heads: number): void {
    checkAttentionDelta(out, dOut, delta, heads);
    this.#run(
      "attentionDelta",
      (n) => attentionDelta(n.of(out), n.of(dOut), n.into(delta), out.shape[1] / heads),
    );
  }

  attentionBackward(
    inputs: AttentionInputs,
    dOut: Tensor,
    logSumExp: Tensor,
    delta: Tensor,
    gradients: { dq: Tensor; dk: Tensor; dv: Tensor },
    shape: AttentionShape,
  ): void {
    const dims = checkAttentionBackward(inputs, dOut, logSumExp, delta, gradients, shape);
    this.#run("attentionBackward", (n) => {
      const [dOuts, logSumExps, deltas] = [dOut, logSumExp, delta].map((tensor) => n.of(tensor));
      const { dq, dk, dv } = gradients;
      const sums = { dq: n.into(dq), dk: n.into(dk), dv: n.into(dv) };
      attentionBackward(attentionArrays(n, inputs), dOuts, logSumExps, deltas, sums, shape, dims);
    });
  }

  gatedActivation(gate: Tensor, up: Tensor, out: Tensor): void {
    check.checkGatedActivation(gate, up, out);
    this.#run("gatedActivation", (n) => {
      const outs = n.into(out);
      gatedActivation(n.of(gate), n.of(up), outs);
    });
  }

  gatedActivationBackward(gate: Tensor, up: Tensor, dOut: Tensor): void {
    check.checkGatedActivationBackward(gate, up, dOut);
    this.#run(
      "gatedActivationBackward",
      (n) => gatedActivationBackward(n.into(gate), n.into(up), n.into(dOut)),
    );
  }

  crossEntropy(logits: Tensor, labels: Tensor, losses: Tensor, scale: number): void {
    check.checkCrossEntropy(logits, labels, losses);
    this.#run("crossEntropy", (n) => crossEntropy(n.into(logits), idsOf(labels), n.into(losses), scale));
  }

  logSumExp(logits: Tensor, labels: Tensor, out: Tensor): void {
    check.checkLogSumExp(logits, labels, out);
    this.#run("logSumExp", (n) => logSumExp(n.of(logits), idsOf(labels), n.into(out)));
  }

  crossEntropyGradient(logits: Tensor, labels: Tensor, logSumExp: Tensor, scale: number): void {
    check.checkCrossEntropyGradient(logits, labels, logSumExp);
    this.#run(
      "crossEntropyGradient",
      (n) => crossEntropyGradient(n.into(logits), idsOf(labels), n.of(logSumExp), scale),
    );
  }

  sum(x: Tensor, out: Tensor): void {
    checkSum(x, out);
    this.#run("sum", (n) => sum(n.of(x), n.into(out)));
  }

  sumSquares(x: Tensor, out: Tensor): void {
    checkSumSquares(x, out);
    this.#run("sumSquares", (n) => sumSquares(n.of(x), n.into(out)));
  }

  clipFactor(partials: Tensor, result: Tensor, maxNorm: number, options: ClipOptions = {}): void {
    checkClipFactor(partials, result, maxNorm, options);
    const { gradientScale = 1 } = options;
    this.#run("clipFactor", (n) => clipFactor(n.of(partials), n.into(result), maxNorm, gradientScale));
  }

  adamw(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, options: AdamWOptions, clip?: Tensor): void {
    checkAdamW(param, grad, m, v, options, clip);
    this.#run("adamw", (n) => {
      const [norm, factor] = clip ? n.of(clip) : [0, 1];
      if (!Number.isFinite(norm)) return;
      const [params, first, second] = [param, m, v].map((tensor) => n.into(tensor));
      adamw(params, n.of(grad), first, second, options, factor);
      roundStochastically([params, first, second], [param, m, v].map(({ dtype }) => dtype), options);
    });
  }

  add(x: Tensor, out: Tensor): void {
    check.checkAdd(x, out);
    this.#run("add", (n) => add(n.of(x), n.into(out)));
  }

  scale(x: Tensor, factor: number): void {
    check.checkScale(x);
    this.#run("scale", (n) => scale(n.into(x), factor));
  }

  fill(x: Tensor, value: number): void {
    check.checkFill(x);
    this.#run("fill", (n) => n.into(x).fill(value));
  }

  copy(x: Tensor, out: Tensor): void {
    check.checkCopy(x, out);
    this.#run("copy", () => elementsOf(out).set(elementsOf(x)));
  }

  cast(x: Tensor, out: Tensor): void {
    check.checkCast(x, out);
    this.#run("cast", (n) => n.into(out).set(n.of(x)));
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
    this.#run("copyColumns", (n) => {
      const from = { values: n.of(x), width: x.shape[1], column: xColumn };
      const to = { values: n.into(out), width: out.shape[1], column: outColumn };
      copyColumns(from, to, x.shape[0], columns, options.accumulate ?? false);
    });
  }

  initNormal(out: Tensor, options: InitNormalOptions): void {
    check.checkInitNormal(out, options);
    this.#run("initNormal", (n) => initNormal(n.into(out), out.shape.at(-1) ?? 1, options));
  }

  #run(kernel: string, op: (numbers: OpNumbers) => void): void {
    this.#timer.run(kernel, () => {
      const numbers = new OpNumbers();
      op(numbers);
      numbers.store();
    });
  }
}

function attentionArrays(numbers: OpNumbers, inputs: AttentionInputs): AttentionArrays {
  return {
    q: numbers.of(inputs.q),
    k: numbers.of(inputs.k),
    v: numbers.of(inputs.v),
    queryPositions: idsOf(inputs.queryPositions),
    keyPositions: idsOf(inputs.keyPositions),
  };
}
