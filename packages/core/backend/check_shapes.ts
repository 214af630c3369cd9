/**
 * What each op wants of its tensors and options. Every backend calls these first, so that all refuse the same calls
 * with the same words. Where dims follow from the shapes, the check returns them. Legend of dims: see `ops.ts`.
 *
 * Every function throws a `RangeError` that names the op and the shapes when a shape, an element type, an option or an
 * overlap of tensors is wrong, and a `ReferenceError` when a tensor has been freed.
 *
 * @module
 */

import type { Tensor } from "../tensor/tensor.ts";
import {
  checkOperands,
  FLOATS,
  matrixDims,
  NUMBERS,
  reads,
  refuse,
  sameElements,
  showShape,
  writes,
} from "./check_operands.ts";
import type { InitNormalOptions, MatmulOptions, RmsNormOptions, RopeOptions } from "./ops.ts";

/** Dims of one matrix product: out [m, n] = a [m, k] · b [k, n], up to transposition. */
export interface MatmulDims {
  readonly layout: "NN" | "NT" | "TN";
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** Checks `Ops.matmul`. */
export function checkMatmul(a: Tensor, b: Tensor, out: Tensor, options: MatmulOptions = {}): MatmulDims {
  const { transposeA = false, transposeB = false } = options;
  const layout = transposeA ? "TN" : transposeB ? "NT" : "NN";
  const stop = (reason: string): never => {
    const [left, right, into] = [a, b, out].map((tensor) => showShape(tensor.shape));
    throw new RangeError(`Cannot multiply ${left} by ${right} (${layout}) into ${into}: ${reason}`);
  };
  if (transposeA && transposeB) stop("transposeA and transposeB must not be used together");
  if (a.shape.length !== 2 || b.shape.length !== 2 || out.shape.length !== 2) {
    stop("matmul wants two dims of every tensor");
  }
  const [m, k] = transposeA ? [a.shape[1], a.shape[0]] : [a.shape[0], a.shape[1]];
  const [n, inner] = transposeB ? [b.shape[0], b.shape[1]] : [b.shape[1], b.shape[0]];
  if (inner !== k) stop(`the inner dims of matmul must be equal, not ${k} and ${inner}`);
  if (out.shape[0] !== m || out.shape[1] !== n) stop(`out of matmul must be ${showShape([m, n])}`);
  checkOperands("matmul", [
    reads("a", a, a.shape, FLOATS),
    reads("b", b, b.shape, a.dtype),
    writes("out", out, [m, n], FLOATS),
  ]);
  return { layout, m, n, k };
}

/** Checks `Ops.embedding`. */
export function checkEmbedding(ids: Tensor, table: Tensor, out: Tensor): void {
  const [, width] = matrixDims("embedding", "table", table);
  checkOperands("embedding", [
    reads("ids", ids, [ids.size], "u32"),
    reads("table", table, table.shape, FLOATS),
    writes("out", out, [ids.size, width], table.dtype),
  ]);
}

/** Checks `Ops.embeddingBackward`. */
export function checkEmbeddingBackward(order: Tensor, segments: Tensor, dOut: Tensor, dTable: Tensor): void {
  const [, width] = matrixDims("embeddingBackward", "dTable", dTable);
  const [count] = matrixDims("embeddingBackward", "segments", segments);
  checkOperands("embeddingBackward", [
    reads("order", order, [order.size], "u32"),
    reads("segments", segments, [count, 3], "u32"),
    reads("dOut", dOut, [order.size, width], FLOATS),
    writes("dTable", dTable, dTable.shape),
  ]);
}

/** Checks `Ops.rmsNorm`. */
export function checkRmsNorm(
  x: Tensor,
  weight: Tensor,
  out: Tensor,
  rstd: Tensor,
  epsilon: number,
  { add }: RmsNormOptions = {},
): void {
  const [rows, width] = matrixDims("rmsNorm", "x", x);
  const operands = [
    (add ? writes : reads)("x", x, x.shape, FLOATS),
    reads("weight", weight, [width]),
    writes("out", out, x.shape, x.dtype),
    writes("rstd", rstd, [rows]),
    ...add ? [reads("add", add, x.shape, x.dtype)] : [],
  ];
  checkOperands("rmsNorm", operands);
  if (!(epsilon >= 0)) refuse("rmsNorm", operands, `epsilon must not be negative, not ${epsilon}`);
}

/** Checks `Ops.rmsNormBackward`. */
export function checkRmsNormBackward(
  x: Tensor,
  weight: Tensor,
  rstd: Tensor,
  dOut: Tensor,
  dx: Tensor,
  dWeight?: Tensor,
): void {
  const [rows, width] = matrixDims("rmsNormBackward", "x", x);
  checkOperands("rmsNormBackward", [
    reads("x", x, x.shape, FLOATS),
    reads("weight", weight, [width]),
    reads("rstd", rstd, [rows]),
    reads("dOut", dOut, x.shape, x.dtype),
    writes("dx", dx, x.shape, x.dtype),
    ...dWeight ? [writes("dWeight", dWeight, [width])] : [],
  ]);
}

/** Dims of one rotation. */
export interface RopeDims {
  /** Rows of x. */
  readonly rows: number;
  /** Tokens of one sequence S. */
  readonly tokens: number;
  /** Head dim E. */
  readonly headDim: number;
}

/** Checks `Ops.rope`. */
export function checkRope(x: Tensor, table: Tensor, heads: number, { keys }: RopeOptions = {}): RopeDims {
  const [rows, width] = matrixDims("rope", "x", x);
  const [tokens, headDim] = matrixDims("rope", "table", table);
  const operands = [
    writes("x", x, [rows, heads * headDim], FLOATS),
    reads("table", table, table.shape),
    ...keys ? [writes("keys", keys.x, [rows, keys.heads * headDim], x.dtype)] : [],
  ];
  if (width !== heads * headDim) {
    refuse("rope", operands, `x must have ${heads} heads × ${headDim} (the head dim of table) columns`);
  }
  if (x.dtype !== "f32" && headDim % 4 !== 0) {
    refuse("rope", operands, `half the head dim of ${x.dtype} must be even, not ${headDim / 2}`);
  }
  checkOperands("rope", operands);
  if (headDim % 2 !== 0) refuse("rope", operands, `the head dim must be even, not ${headDim}`);
  if (tokens === 0 ? rows !== 0 : rows % tokens !== 0) {
    refuse("rope", operands, `the rows of x must be a multiple of the ${tokens} rows of table`);
  }
  return { rows, tokens, headDim };
}

/** Checks `Ops.gatedActivation`; `out` may be the same elements as `gate` or `up`. */
export function checkGatedActivation(gate: Tensor, up: Tensor, out: Tensor): void {
  const inPlace = [gate, up].some((input) => !input.freed && sameElements(input, out));
  checkOperands("gatedActivation", [
    reads("gate", gate, gate.shape, FLOATS),
    reads("up", up, gate.shape, gate.dtype),
    inPlace ? reads("out", out, gate.shape, gate.dtype) : writes("out", out, gate.shape, gate.dtype),
  ]);
}

/** Checks `Ops.gatedActivationBackward`. */
export function checkGatedActivationBackward(gate: Tensor, up: Tensor, dOut: Tensor): void {
  checkOperands("gatedActivationBackward", [
    writes("gate", gate, gate.shape, FLOATS),
    writes("up", up, gate.shape, gate.dtype),
    writes("dOut", dOut, gate.shape, gate.dtype),
  ]);
}

/** Checks `Ops.crossEntropy`. */
export function checkCrossEntropy(logits: Tensor, labels: Tensor, losses: Tensor): void {
  const [rows] = matrixDims("crossEntropy", "logits", logits);
  checkOperands("crossEntropy", [
    writes("logits", logits, logits.shape, FLOATS),
    reads("labels", labels, [rows], "u32"),
    writes("losses", losses, [rows]),
  ]);
}

/** Checks `Ops.logSumExp`. */
export function checkLogSumExp(logits: Tensor, labels: Tensor, out: Tensor): void {
  const [rows, columns] = matrixDims("logSumExp", "logits", logits);
  const operands = [
    reads("logits", logits, logits.shape, FLOATS),
    reads("labels", labels, [rows], "u32"),
    writes("out", out, [rows, 2]),
  ];
  checkOperands("logSumExp", operands);
  if (columns === 0) refuse("logSumExp", operands, "a row must have a logit or more");
}

/** Checks `Ops.crossEntropyGradient`. */
export function checkCrossEntropyGradient(logits: Tensor, labels: Tensor, logSumExp: Tensor): void {
  const [rows] = matrixDims("crossEntropyGradient", "logits", logits);
  checkOperands("crossEntropyGradient", [
    writes("logits", logits, logits.shape, FLOATS),
    reads("labels", labels, [rows], "u32"),
    reads("logSumExp", logSumExp, [rows]),
  ]);
}

/** Checks `Ops.add`. */
export function checkAdd(x: Tensor, out: Tensor): void {
  checkOperands("add", [reads("x", x, x.shape, FLOATS), writes("out", out, x.size, FLOATS)]);
}

/** Checks `Ops.scale`. */
export function checkScale(x: Tensor): void {
  checkOperands("scale", [writes("x", x, x.shape, FLOATS)]);
}

/** Checks `Ops.fill`. */
export function checkFill(x: Tensor): void {
  checkOperands("fill", [writes("x", x, x.shape, NUMBERS)]);
}

/** Checks `Ops.copy`. */
export function checkCopy(x: Tensor, out: Tensor): void {
  checkOperands("copy", [reads("x", x, x.shape, x.dtype), writes("out", out, x.size, x.dtype)]);
}

/** Checks `Ops.cast`. */
export function checkCast(x: Tensor, out: Tensor): void {
  checkOperands("cast", [reads("x", x, x.shape, NUMBERS), writes("out", out, x.size, NUMBERS)]);
}

/** Checks `Ops.copyColumns`. */
export function checkCopyColumns(x: Tensor, xColumn: number, out: Tensor, outColumn: number, columns: number): void {
  const [rows, xWidth] = matrixDims("copyColumns", "x", x);
  const [, outWidth] = matrixDims("copyColumns", "out", out);
  const operands = [reads("x", x, x.shape, FLOATS), writes("out", out, [rows, outWidth], x.dtype)];
  checkOperands("copyColumns", operands);
  if (x.dtype !== "f32" && [xColumn, outColumn, columns].some((count) => count % 2 !== 0)) {
    refuse("copyColumns", operands, `${x.dtype} lies in pairs: columns must be copied in pairs, from and to even ones`);
  }
  for (const [name, first, width] of [["x", xColumn, xWidth], ["out", outColumn, outWidth]] as const) {
    if ([first, columns].every((value) => Number.isSafeInteger(value) && value >= 0) && first + columns <= width) {
      continue;
    }
    refuse("copyColumns", operands, `${columns} columns from ${first} must be among the ${width} of ${name}`);
  }
}

/** Checks `Ops.initNormal`. */
export function checkInitNormal(out: Tensor, options: InitNormalOptions): void {
  const operands = [writes("out", out, out.shape, FLOATS)];
  checkOperands("initNormal", operands);
  const { std, seed, stream, start = 0, stride } = options;
  if (!(std >= 0 && Number.isFinite(std))) refuse("initNormal", operands, `std must not be negative, not ${std}`);
  for (const [name, value] of [["seed", seed], ["stream", stream]] as const) {
    if (value !== value >>> 0) refuse("initNormal", operands, `${name} must be a u32, not ${value}`);
  }
  if (!(Number.isSafeInteger(start) && start >= 0)) {
    refuse("initNormal", operands, `start must be a non-negative integer, not ${start}`);
  }
  if (stride === undefined) return;
  const [rows, columns] = matrixDims("initNormal", "out", out);
  if (!(Number.isSafeInteger(stride) && stride >= columns && rows * stride < 2 ** 32)) {
    refuse(
      "initNormal",
      operands,
      `stride must be an integer from ${columns} and, times rows, below 2^32, not ${stride}`,
    );
  }
}
