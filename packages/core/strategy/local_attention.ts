/**
 * Attention of one rank that holds the whole sequence.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import type { AttentionShape } from "../backend/ops.ts";
import { type DType, ELEMENT_BYTES, elementBytes } from "../tensor/shape.ts";
import { type Saved, savedTensors } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { positionBytes, uploadPositions } from "./attention_positions.ts";
import { keepAttentionOutput, withAttentionOutput } from "./attention_output.ts";
import type { AttentionCore, AttentionMemory, AttentionMemoryOptions, TokenPartition } from "./strategy.ts";

/** Attention without any exchange, for one micro-batch; see `SequenceStrategy.attention`. */
export function createLocalAttention(
  backend: Backend,
  shape: AttentionShape,
  partition: TokenPartition,
  documentStarts?: Uint32Array,
): AttentionCore {
  const { ops } = backend;
  const positions = uploadPositions(backend, partition.positions[0], shape.batch, documentStarts);
  const { queryPositions, keyPositions } = positions;
  const inputs = (q: Tensor, k: Tensor, v: Tensor) => ({ q, k, v, queryPositions, keyPositions });

  return {
    forward(q: Tensor, k: Tensor, v: Tensor): Promise<{ out: Tensor; saved: Saved }> {
      const out = backend.empty(q.shape, "activations", q.dtype);
      const logSumExp = backend.empty([q.shape[0], shape.heads], "activations");
      ops.attention(inputs(q, k, v), out, logSumExp, shape);
      return Promise.resolve({ out: out.share(), saved: savedTensors({ q, k, v, out, logSumExp }) });
    },

    backward(dOut: Tensor, saved: Saved): Promise<{ dq: Tensor; dk: Tensor; dv: Tensor }> {
      const [q, k, v, out, logSumExp] = saved.tensors;
      using delta = backend.empty(logSumExp.shape, "activations");
      ops.attentionDelta(out, dOut, delta, shape.heads);
      out.free(); // makes room for dq
      const dq = zeros(backend, q.shape, "activations", q.dtype);
      const dk = zeros(backend, k.shape, "activations", k.dtype);
      const dv = zeros(backend, v.shape, "activations", v.dtype);
      ops.attentionBackward(inputs(q, k, v), dOut, logSumExp, delta, { dq, dk, dv }, shape);
      [dOut, q, k, v, logSumExp].forEach((tensor) => tensor.free());
      return Promise.resolve({ dq, dk, dv });
    },

    keep: keepAttentionOutput,
    rematerialize: (q, k, v, kept) => Promise.resolve(withAttentionOutput([q, k, v], kept)),

    [Symbol.dispose](): void {
      positions[Symbol.dispose]();
    },
  };
}

/** Device bytes of {@linkcode createLocalAttention} in closed form. */
export function localAttentionMemory(
  shape: AttentionShape,
  { seqTokens }: TokenPartition,
  { packed = false, activations = "f32" }: AttentionMemoryOptions = {},
): AttentionMemory {
  const rows = shape.batch * seqTokens;
  const savedBytes = attentionBytes(shape, rows, activations);
  return {
    heldBytes: positionBytes(seqTokens, shape.batch, packed),
    savedBytes,
    keptBytes: attentionOutputBytes(shape, rows, activations),
    forwardBytes: savedBytes,
    rematerializeBytes: savedBytes,
    // dOut, dk, dv and delta are as large as out, k, v and log-sum-exp; dq takes the place of out.
    backwardBytes: 2 * savedBytes - rows * shape.heads * shape.headDim * elementBytes(activations),
  };
}

/** Bytes of q, k, v, out and log-sum-exp of a number of rows. */
export function attentionBytes(shape: AttentionShape, rows: number, activations: DType = "f32"): number {
  const { heads, kvHeads, headDim } = shape;
  return rows * (heads + 2 * kvHeads) * headDim * elementBytes(activations) +
    attentionOutputBytes(shape, rows, activations);
}

/** Bytes of out and log-sum-exp of a number of rows. */
export function attentionOutputBytes(
  { heads, headDim }: AttentionShape,
  rows: number,
  activations: DType = "f32",
): number {
  return rows * heads * (headDim * elementBytes(activations) + ELEMENT_BYTES);
}
