/**
 * Final norm, LM head and cross-entropy, fused and run mini-sequence by mini-sequence.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import type { Parameter } from "../layer/parameter.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { planChunks } from "./chunk_plan.ts";

/** Weights of the head. */
export interface LmHeadWeights {
  /** Weight of the final RMSNorm [D]. */
  readonly norm: Parameter;
  /** Projection to the vocabulary [V, D]; the embedding itself when tied. */
  readonly head: Parameter;
  /** Term added to the mean square in the norm. */
  readonly normEpsilon: number;
}

/** Options of {@linkcode lmHeadLoss}. */
export interface LmHeadLossOptions {
  /** Number of mini-sequences; more than there are rows means one a row. */
  readonly chunks: number;
  /** Gradient of the objective by the loss of one valid token: upstream gradient / number of valid tokens. */
  readonly scale: number;
}

/** What {@linkcode lmHeadLoss} returns; both tensors are owned by the caller. */
export interface LmHeadLoss {
  /** Loss of each row, unscaled, 0 for ignored ones: [T]. Their sum times 1 / valid tokens is the mean loss. */
  readonly losses: Tensor;
  /** Gradient of the objective by the input: [T, D]. */
  readonly dx: Tensor;
}

/**
 * Next-token loss and its gradients in one pass over x [T, D]: logits of one slice at a time become their own gradient in
 * place, from which dx of the slice and the weight gradients follow at once, so backward needs no logits and logits
 * never exist for the whole sequence (Luo et al. 2024, algorithms 2 to 4, with the loss summed over valid tokens
 * instead of averaged over slices). Gradients are added to the parameters; a frozen weight costs nothing.
 *
 * @param labels [T] u32, already shifted; `IGNORED_LABEL` marks positions without a target
 */
export function lmHeadLoss(
  backend: Backend,
  x: Tensor,
  labels: Tensor,
  { norm, head, normEpsilon }: LmHeadWeights,
  { chunks, scale }: LmHeadLossOptions,
): LmHeadLoss {
  const { ops } = backend;
  const [rows, dim] = x.shape;
  const vocab = head.value.shape[0];
  const losses = backend.empty([rows], "activations");
  const dx = zeros(backend, x.shape, "activations", x.dtype);
  for (const { start, end } of planChunks(rows, chunks)) {
    using xSlice = x.rows(start, end);
    using dxSlice = dx.rows(start, end);
    using labelSlice = labels.rows(start, end);
    using lossSlice = losses.rows(start, end);
    using rstd = backend.empty([end - start], "scratch");
    using normed = backend.empty([end - start, dim], "scratch", x.dtype);
    using logits = backend.empty([end - start, vocab], "scratch", x.dtype);

    ops.rmsNorm(xSlice, norm.value, normed, rstd, normEpsilon);
    ops.matmul(normed, head.value, logits, { transposeB: true });
    ops.crossEntropy(logits, labelSlice, lossSlice, scale);

    if (head.gradient) ops.matmul(logits, normed, head.gradient, { transposeA: true, accumulate: true });
    const dNormed = normed; // its values are not needed any more
    ops.matmul(logits, head.value, dNormed);
    ops.rmsNormBackward(xSlice, norm.value, rstd, dNormed, dxSlice, norm.gradient);
  }
  return { losses, dx };
}

/**
 * Logits of every row, mini-sequence by mini-sequence: `receive` gets those of rows `start` to `end` as [C, V] and must
 * not keep the tensor.
 */
export async function lmHeadLogits(
  backend: Backend,
  x: Tensor,
  { norm, head, normEpsilon }: LmHeadWeights,
  chunks: number,
  receive: (logits: Tensor, start: number, end: number) => Promise<void>,
): Promise<void> {
  const [rows, dim] = x.shape;
  for (const { start, end } of planChunks(rows, chunks)) {
    using xSlice = x.rows(start, end);
    using rstd = backend.empty([end - start], "scratch");
    using normed = backend.empty([end - start, dim], "scratch", x.dtype);
    using logits = backend.empty([end - start, head.value.shape[0]], "scratch", x.dtype);
    backend.ops.rmsNorm(xSlice, norm.value, normed, rstd, normEpsilon);
    backend.ops.matmul(normed, head.value, logits, { transposeB: true });
    await receive(logits, start, end);
  }
}
