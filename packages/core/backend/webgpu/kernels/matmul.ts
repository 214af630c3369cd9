/**
 * Matrix product of f32 or f16 tensors: out [m, n] = or += a · b with `a` [m, k] or transposed [k, m], and `b` [k, n] or
 * transposed [n, k]. Sums run over k in a fixed order, so that results are deterministic.
 *
 * What does not fit a binding is split: `out` by rows, or by parts of a row; operands likewise, along m, n or k.
 *
 * @module
 */

import { Scope } from "../../../tensor/scope.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import { checkMatmul, type MatmulDims } from "../../check_shapes.ts";
import type { MatmulOptions } from "../../ops.ts";
import {
  bindingElements,
  canVectorize,
  type Dispatcher,
  type DispatchLimits,
  linearGrid,
  residual,
  type RowBlock,
} from "../dispatch.ts";
import { formNumber, type MatmulForm, type MatmulParams, paramValues } from "./matmul_form.ts";
import { lanesSource } from "./matmul_lanes.ts";
import { addParts } from "./matmul_parts.ts";
import { CHUNK, unitsSource } from "./matmul_units.ts";
import type { MatrixUnit } from "./matrix_unit.ts";
import { tilesSource } from "./matmul_tiles.ts";
import { choosePlan, type MatmulPlan, type MatmulVariant, tileOf, variantName } from "./matmul_variant.ts";

/** Blocks that a product is split into are a multiple of this, if they are larger. */
const BLOCK_MULTIPLE = 128;

/** Options of {@linkcode matmul}. */
export interface MatmulLaunchOptions extends MatmulOptions {
  /** How to compute it, for tests and measurements. Default: as {@linkcode choosePlan} says. */
  readonly plan?: MatmulPlan;
  /** The matrix units of variants that want them, for tests. Default: the device's. */
  readonly unit?: MatrixUnit;
}

/**
 * See `Ops.matmul`.
 *
 * @throws {RangeError} when shapes do not fit together
 */
export function matmul(
  dispatcher: Dispatcher,
  a: Tensor,
  b: Tensor,
  out: Tensor,
  options: MatmulLaunchOptions = {},
): void {
  const dims = checkMatmul(a, b, out, options);
  const { m, n, k } = dims;
  if (m === 0 || n === 0 || (k === 0 && options.accumulate)) return;
  const { accumulate = false } = options;
  const units = dispatcher.features.subgroupMatrix && fitsUnits({ a, b, out }, dims);
  const { variant, parts } = options.plan ?? choosePlan(dims, dispatcher, units);
  const step = largestBlock({ a, b, out }, dims, dispatcher.limits, tileOf(variant).tileK);
  if (step.m === m && step.n === n && step.k === k) {
    const { unit } = options;
    if (parts > 1) matmulInParts(dispatcher, { a, b, out }, dims, { variant, parts }, accumulate, unit);
    else matmulBlock(dispatcher, { a, b, out }, dims, dims, accumulate, variant, { unit });
    return;
  }
  for (const rows of cut(m, step.m)) {
    for (const columns of cut(n, step.n)) {
      for (const depth of cut(k, step.k)) {
        const block = { m: rows, n: columns, k: depth };
        using scope = new Scope();
        const views = blockViews(scope, { a, b, out }, dims, block);
        const sizes = { m: sizeOf(rows), n: sizeOf(columns), k: sizeOf(depth) };
        matmulBlock(dispatcher, views, dims, sizes, accumulate || depth.start > 0, variant, { unit: options.unit });
      }
    }
  }
}

/** The dims of a product. */
type Dim = "m" | "n" | "k";

/** The part of a product that one dispatch computes. */
type Block = Readonly<Record<Dim, RowBlock>>;

type Operands = Readonly<Record<"a" | "b" | "out", Tensor>>;

/** Rows and columns of the operands as they are stored, by layout. */
const STORED_DIMS: Readonly<
  Record<MatmulDims["layout"], Readonly<Record<keyof Operands, readonly [rows: Dim, columns: Dim]>>>
> = {
  NN: { a: ["m", "k"], b: ["k", "n"], out: ["m", "n"] },
  NT: { a: ["m", "k"], b: ["n", "k"], out: ["m", "n"] },
  TN: { a: ["k", "m"], b: ["k", "n"], out: ["m", "n"] },
};

const OPERANDS = ["a", "b", "out"] as const;

/** Whether every operand allows loads and stores of 16 bytes, as matrix units want them. */
function fitsUnits(operands: Operands, dims: MatmulDims): boolean {
  if (operands.a.dtype !== "f16") return false;
  const stored = STORED_DIMS[dims.layout];
  for (const name of OPERANDS) {
    const { dtype, offset } = operands[name];
    if (dtype !== "f32" && (offset % CHUNK !== 0 || dims[stored[name][1]] % CHUNK !== 0)) return false;
  }
  return true;
}

/** The largest block of a product whose operands all fit a binding, and whose loop over k fits the device. */
function largestBlock(
  operands: Operands,
  dims: MatmulDims,
  limits: DispatchLimits,
  tileK: number,
): Record<Dim, number> {
  const step = { m: dims.m, n: dims.n, k: dims.k };
  const limit = (dim: Dim, size: number) => step[dim] = Math.min(step[dim], roundBlock(size));
  if (dims.k > limits.maxLoopTurns * tileK) limit("k", limits.maxLoopTurns * tileK);
  const stored = STORED_DIMS[dims.layout];
  for (const name of OPERANDS) {
    const [rows, columns] = stored[name];
    const capacity = bindingElements(limits, operands[name].dtype);
    if (dims[rows] * dims[columns] <= capacity) continue;
    // Whole rows if one fits, else a part of one row.
    limit(rows, Math.max(1, Math.floor(capacity / dims[columns])));
    if (dims[columns] > capacity) limit(columns, capacity);
  }
  return step;
}

function roundBlock(size: number): number {
  const multiple = [BLOCK_MULTIPLE, 4, 1].find((each) => size >= each) ?? 1;
  return Math.floor(size / multiple) * multiple;
}

/** Cuts 0 to `size` into pieces of `step`; one piece, with nothing in it, if `size` is 0. */
function cut(size: number, step: number): RowBlock[] {
  if (size <= step) return [{ start: 0, end: size }];
  return Array.from({ length: Math.ceil(size / step) }, (_, i) => ({
    start: i * step,
    end: Math.min(size, (i + 1) * step),
  }));
}

/** The whole product in parts of k: each to the workspace, then added up. */
function matmulInParts(
  dispatcher: Dispatcher,
  { a, b, out }: Operands,
  dims: MatmulDims,
  { variant, parts }: MatmulPlan,
  accumulate: boolean,
  unit?: MatrixUnit,
): void {
  const { m, n, k } = dims;
  const { tileK } = tileOf(variant);
  const partK = Math.ceil(k / parts / tileK) * tileK;
  const filled = Math.ceil(k / partK); // rounding to whole slabs can leave the last parts empty
  using sums = dispatcher.workspace().rows(0, filled * m * n);
  matmulBlock(dispatcher, { a, b, out: sums }, dims, dims, false, variant, { partK, parts: filled, unit });
  addParts(dispatcher, out, filled, accumulate);
}

/** What a block is computed with besides its operands. */
interface BlockOptions {
  /** Parts of k, each by workgroups of its own. Default 1. */
  readonly parts?: number;
  /** k of a part. */
  readonly partK?: number;
  readonly unit?: MatrixUnit;
}

function sizeOf({ start, end }: RowBlock): number {
  return end - start;
}

/** The parts of the operands that a block of the product takes: from its first element to its last, rows as they lie. */
function blockViews(scope: Scope, operands: Operands, dims: MatmulDims, block: Block): Operands {
  const stored = STORED_DIMS[dims.layout];
  const view = (name: keyof Operands) => {
    const [rows, columns] = stored[name].map((dim) => block[dim]);
    const stride = dims[stored[name][1]];
    const start = rows.start * stride + columns.start;
    const end = Math.max(start, (rows.end - 1) * stride + columns.end);
    return scope.own(operands[name].elements(start, end));
  };
  return { a: view("a"), b: view("b"), out: view("out") };
}

/**
 * One dispatch.
 *
 * @param views the operands' parts, see {@linkcode blockViews}
 * @param dims dims of the whole product, which say how rows lie
 * @param sizes dims of the block
 */
function matmulBlock(
  dispatcher: Dispatcher,
  views: Operands,
  dims: MatmulDims,
  { m, n, k }: Readonly<Record<Dim, number>>,
  accumulate: boolean,
  variant: MatmulVariant,
  { parts = 1, partK = 0, unit = "subgroup" }: BlockOptions,
): void {
  const { layout } = dims;
  const sizes = { m, n, k };
  const stored = STORED_DIMS[layout];
  const bind = (name: keyof Operands): BoundOperand => {
    const view = views[name];
    const columns = stored[name][1];
    const stride = dims[columns];
    const vector = canVectorize([view], [stride, sizes[columns]]);
    const width = variant.kind === "units" ? (view.dtype === "f16" ? CHUNK : 1) : vector ? 4 : 1;
    return { view, vector: width === 4, start: residual(view) / width, stride: stride / width };
  };
  const a = bind("a");
  const b = bind("b");
  const out = bind("out");
  const { tileM, tileN, tileK } = tileOf(variant);
  const rowTiles = Math.ceil(m / tileM);
  const columnTiles = Math.ceil(n / tileN);
  const form: MatmulForm = {
    layout,
    accumulate,
    half: a.view.dtype === "f16",
    halfOut: out.view.dtype === "f16",
    vectorA: a.vector,
    vectorB: b.vector,
    vectorOut: out.vector,
    raggedK: k % tileK !== 0,
    inParts: parts > 1,
    ...(variant.kind === "units" ? { raggedM: m % tileM !== 0, raggedN: n % tileN !== 0 } : {}),
  };
  const params: MatmulParams = {
    m,
    n,
    k,
    aStart: a.start,
    aStride: a.stride,
    bStart: b.start,
    bStride: b.stride,
    outStart: out.start,
    outStride: out.stride,
    rowTiles,
    columnTiles,
    partK,
  };
  const dtypes = form.half ? ` f16${form.halfOut ? "" : " to f32"}` : "";
  const kernel = `matmul ${layout}${dtypes} ${variantName(variant)}${parts > 1 ? " in parts" : ""}`;
  const write = () => source(variant, form, unit);
  dispatcher.run({
    kernel,
    code: { key: kernel, form: 1024 * variantNumber(variant, unit) + formNumber(form), write },
    tensors: [
      { tensor: a.view, access: "read" },
      { tensor: b.view, access: "read" },
      { tensor: out.view, access: "read_write" },
    ],
    params: paramValues(params),
    workgroups: linearGrid(rowTiles * columnTiles * parts),
  });
}

/** A number that tells apart what the name of a variant does not. */
function variantNumber(variant: MatmulVariant, unit: MatrixUnit): number {
  return variant.kind === "units" ? 2 * (variant.teamM * 1024 + variant.teamN) + Number(unit === "emulated") : 0;
}

function source(variant: MatmulVariant, form: MatmulForm, unit: MatrixUnit): string {
  if (variant.kind === "units") return unitsSource(variant, form, unit);
  return variant.kind === "tiles" ? tilesSource(variant, form) : lanesSource(variant, form);
}

/** An operand as one dispatch sees it; start and stride count what it is bound as. */
interface BoundOperand {
  readonly view: Tensor;
  readonly vector: boolean;
  readonly start: number;
  readonly stride: number;
}
