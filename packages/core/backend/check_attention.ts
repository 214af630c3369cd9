/**
 * What the attention ops want of their tensors; see `check_shapes.ts`.
 *
 * @module
 */

import type { Tensor } from "../tensor/tensor.ts";
import { checkOperands, FLOATS, matrixDims, type Operand, reads, refuse, writes } from "./check_operands.ts";
import type { AttentionInputs, AttentionShape } from "./ops.ts";

/** Tokens of one sequence on either side of attention. */
export interface AttentionDims {
  /** Queries of one sequence, Sq. */
  readonly queryTokens: number;
  /** Keys of one sequence, Sk. */
  readonly keyTokens: number;
  /** Whether `queryPositions` holds a range for each row rather than a position for each query. */
  readonly ranged: boolean;
}

/** Checks `Ops.attention`. */
export function checkAttention(
  inputs: AttentionInputs,
  out: Tensor,
  logSumExp: Tensor,
  shape: AttentionShape,
): AttentionDims {
  const { dims, operands } = inputOperands("attention", inputs, shape);
  checkOperands("attention", [
    ...operands,
    writes("out", out, inputs.q.shape, FLOATS),
    writes("logSumExp", logSumExp, [inputs.q.shape[0], shape.heads]),
  ]);
  return dims;
}

/** Checks `Ops.attentionDelta`. */
export function checkAttentionDelta(out: Tensor, dOut: Tensor, delta: Tensor, heads: number): void {
  const [rows, width] = matrixDims("attentionDelta", "out", out);
  const operands = [
    reads("out", out, out.shape, FLOATS),
    reads("dOut", dOut, out.shape, FLOATS),
    writes("delta", delta, [rows, heads]),
  ];
  if (!(heads > 0 && width % heads === 0)) {
    refuse("attentionDelta", operands, `the columns of out must be a multiple of ${heads} heads`);
  }
  if ([out, dOut].some(({ dtype }) => dtype === "f16") && width / heads % 2 !== 0) {
    refuse("attentionDelta", operands, `the head dim of f16 must be even, not ${width / heads}`);
  }
  checkOperands("attentionDelta", operands);
}

/** Checks `Ops.attentionBackward`. */
export function checkAttentionBackward(
  inputs: AttentionInputs,
  dOut: Tensor,
  logSumExp: Tensor,
  delta: Tensor,
  gradients: { dq: Tensor; dk: Tensor; dv: Tensor },
  shape: AttentionShape,
): AttentionDims {
  const { dims, operands } = inputOperands("attentionBackward", inputs, shape);
  const perHead = [inputs.q.shape[0], shape.heads];
  checkOperands("attentionBackward", [
    ...operands,
    reads("dOut", dOut, inputs.q.shape, FLOATS),
    reads("logSumExp", logSumExp, perHead),
    reads("delta", delta, perHead),
    writes("dq", gradients.dq, inputs.q.shape, FLOATS),
    writes("dk", gradients.dk, inputs.k.shape, FLOATS),
    writes("dv", gradients.dv, inputs.v.shape, FLOATS),
  ]);
  return dims;
}

function inputOperands(
  op: string,
  inputs: AttentionInputs,
  shape: AttentionShape,
): { dims: AttentionDims; operands: Operand[] } {
  const { batch, heads, kvHeads, headDim, scale } = shape;
  checkCount(op, "batch", batch);
  checkCount(op, "heads", heads);
  checkCount(op, "kvHeads", kvHeads);
  checkCount(op, "headDim", headDim);
  if (heads % kvHeads !== 0) {
    throw new RangeError(
      `Cannot run ${op} with ${heads} heads and ${kvHeads} kv heads: heads must be a multiple of them`,
    );
  }
  if (!Number.isFinite(scale)) throw new RangeError(`Cannot run ${op} with scale ${scale}: scale must be finite`);
  const { q, k, v, queryPositions, keyPositions } = inputs;
  const [queryRows] = matrixDims(op, "q", q);
  const [keyRows] = matrixDims(op, "k", k);
  const ranged = queryPositions.shape.length === 2;
  const dims = { queryTokens: queryRows / batch, keyTokens: keyRows / batch, ranged };
  const operands = [
    reads("q", q, [queryRows, heads * headDim], FLOATS),
    reads("k", k, [keyRows, kvHeads * headDim], FLOATS),
    reads("v", v, [keyRows, kvHeads * headDim], FLOATS),
    reads("queryPositions", queryPositions, ranged ? [queryRows, 2] : [dims.queryTokens], "u32"),
    reads("keyPositions", keyPositions, [dims.keyTokens], "u32"),
  ];
  if (queryRows % batch !== 0 || keyRows % batch !== 0) {
    refuse(op, operands, `the rows of q and k must be multiples of the batch of ${batch}`);
  }
  if (headDim % 2 !== 0 && [q, k, v].some(({ dtype }) => dtype === "f16")) {
    refuse(op, operands, `the head dim of f16 must be even, not ${headDim}`);
  }
  return { dims, operands };
}

function checkCount(op: string, name: string, value: number): void {
  if (Number.isSafeInteger(value) && value > 0) return;
  throw new RangeError(`Cannot run ${op} with ${name} ${value}: ${name} must be a positive integer`);
}
