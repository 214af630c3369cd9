/**
 * The ops of the reference backend: check, unwrap the tensors, call the plain function.
 *
 * @module
 */

import type { Tensor } from "../../tensor/tensor.ts";
import { checkAttention, checkAttentionBackward, checkAttentionDelta } from "../check_attention.ts";
import * as check from "../check_shapes.ts";
import type { AdamWOptions, AttentionInputs, AttentionShape, InitNormalOptions, MatmulOptions, Ops } from "../ops.ts";
import { adamw } from "./adamw.ts";
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
import { elementsOf, floatsOf, idsOf } from "./storage.ts";

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
    this.#timer.run(`matmul ${dims.layout}`, () => matmul(floatsOf(a), floatsOf(b), floatsOf(out), dims, accumulate));
  }

  embedding(ids: Tensor, table: Tensor, out: Tensor): void {
    check.checkEmbedding(ids, table, out);
    this.#timer.run("embedding", () => embedding(idsOf(ids), floatsOf(table), floatsOf(out), table.shape[1]));
  }

  embeddingBackward(order: Tensor, segments: Tensor, dOut: Tensor, dTable: Tensor): void {
    check.checkEmbeddingBackward(order, segments, dOut, dTable);
    this.#timer.run(
      "embeddingBackward",
      () => embeddingBackward(idsOf(order), idsOf(segments), floatsOf(dOut), floatsOf(dTable), dTable.shape[1]),
    );
  }

  rmsNorm(x: Tensor, weight: Tensor, out: Tensor, rstd: Tensor, epsilon: number): void {
    check.checkRmsNorm(x, weight, out, rstd, epsilon);
    this.#timer.run(
      "rmsNorm",
      () => rmsNorm(floatsOf(x), floatsOf(weight), floatsOf(out), floatsOf(rstd), epsilon),
    );
  }

  rmsNormBackward(x: Tensor, weight: Tensor, rstd: Tensor, dOut: Tensor, dx: Tensor, dWeight?: Tensor): void {
    check.checkRmsNormBackward(x, weight, rstd, dOut, dx, dWeight);
    this.#timer.run("rmsNormBackward", () => {
      const [xs, weights, rstds, dOuts, dxs] = [x, weight, rstd, dOut, dx].map(floatsOf);
      rmsNormBackward(xs, weights, rstds, dOuts, dxs, dWeight && floatsOf(dWeight));
    });
  }

  rope(x: Tensor, table: Tensor, heads: number, options: { inverse?: boolean } = {}): void {
    const dims = check.checkRope(x, table, heads);
    this.#timer.run("rope", () => rope(floatsOf(x), floatsOf(table), dims, options.inverse ?? false));
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
    this.#timer.run(
      "attention",
      () => attention(attentionArrays(inputs), floatsOf(out), floatsOf(logSumExp), shape, dims, resume),
    );
  }

  attentionDelta(out: Tensor, dOut: Tensor, delta: Tensor, heads: number): void {
    checkAttentionDelta(out, dOut, delta, heads);
    this.#timer.run(
      "attentionDelta",
      () => attentionDelta(floatsOf(out), floatsOf(dOut), floatsOf(delta), out.shape[1] / heads),
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
    this.#timer.run("attentionBackward", () => {
      const [dOuts, logSumExps, deltas] = [dOut, logSumExp, delta].map(floatsOf);
      const { dq, dk, dv } = gradients;
      const sums = { dq: floatsOf(dq), dk: floatsOf(dk), dv: floatsOf(dv) };
      attentionBackward(attentionArrays(inputs), dOuts, logSumExps, deltas, sums, shape, dims);
    });
  }

  gatedActivation(gate: Tensor, up: Tensor, out: Tensor): void {
    check.checkGatedActivation(gate, up, out);
    this.#timer.run("gatedActivation", () => gatedActivation(floatsOf(gate), floatsOf(up), floatsOf(out)));
  }

  gatedActivationBackward(gate: Tensor, up: Tensor, dOut: Tensor): void {
    check.checkGatedActivationBackward(gate, up, dOut);
    this.#timer.run(
      "gatedActivationBackward",
      () => gatedActivationBackward(floatsOf(gate), floatsOf(up), floatsOf(dOut)),
    );
  }

  crossEntropy(logits: Tensor, labels: Tensor, losses: Tensor, scale: number): void {
    check.checkCrossEntropy(logits, labels, losses);
    this.#timer.run("crossEntropy", () => crossEntropy(floatsOf(logits), idsOf(labels), floatsOf(losses), scale));
  }

  logSumExp(logits: Tensor, labels: Tensor, out: Tensor): void {
    check.checkLogSumExp(logits, labels, out);
    this.#timer.run("logSumExp", () => logSumExp(floatsOf(logits), idsOf(labels), floatsOf(out)));
  }

  crossEntropyGradient(logits: Tensor, labels: Tensor, logSumExp: Tensor, scale: number): void {
    check.checkCrossEntropyGradient(logits, labels, logSumExp);
    this.#timer.run(
      "crossEntropyGradient",
      () => crossEntropyGradient(floatsOf(logits), idsOf(labels), floatsOf(logSumExp), scale),
    );
  }

  sum(x: Tensor, out: Tensor): void {
    check.checkSum(x, out);
    this.#timer.run("sum", () => sum(floatsOf(x), floatsOf(out)));
  }

  sumSquares(x: Tensor, out: Tensor): void {
    check.checkSumSquares(x, out);
    this.#timer.run("sumSquares", () => sumSquares(floatsOf(x), floatsOf(out)));
  }

  clipFactor(partials: Tensor, result: Tensor, maxNorm: number): void {
    check.checkClipFactor(partials, result, maxNorm);
    this.#timer.run("clipFactor", () => clipFactor(floatsOf(partials), floatsOf(result), maxNorm));
  }

  adamw(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, options: AdamWOptions, clip?: Tensor): void {
    check.checkAdamW(param, grad, m, v, options, clip);
    this.#timer.run("adamw", () => {
      const factor = clip ? floatsOf(clip)[1] : 1;
      adamw(floatsOf(param), floatsOf(grad), floatsOf(m), floatsOf(v), options, factor);
    });
  }

  add(x: Tensor, out: Tensor): void {
    check.checkAdd(x, out);
    this.#timer.run("add", () => add(floatsOf(x), floatsOf(out)));
  }

  scale(x: Tensor, factor: number): void {
    check.checkScale(x);
    this.#timer.run("scale", () => scale(floatsOf(x), factor));
  }

  fill(x: Tensor, value: number): void {
    check.checkFill(x);
    this.#timer.run("fill", () => floatsOf(x).fill(value));
  }

  copy(x: Tensor, out: Tensor): void {
    check.checkCopy(x, out);
    this.#timer.run("copy", () => elementsOf(out).set(elementsOf(x)));
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
    this.#timer.run("copyColumns", () => {
      const from = { values: floatsOf(x), width: x.shape[1], column: xColumn };
      const to = { values: floatsOf(out), width: out.shape[1], column: outColumn };
      copyColumns(from, to, x.shape[0], columns, options.accumulate ?? false);
    });
  }

  initNormal(out: Tensor, options: InitNormalOptions): void {
    check.checkInitNormal(out, options);
    this.#timer.run("initNormal", () => initNormal(floatsOf(out), out.shape.at(-1) ?? 1, options));
  }
}

function attentionArrays({ q, k, v, queryPositions, keyPositions }: AttentionInputs): AttentionArrays {
  return {
    q: floatsOf(q),
    k: floatsOf(k),
    v: floatsOf(v),
    queryPositions: idsOf(queryPositions),
    keyPositions: idsOf(keyPositions),
  };
}
