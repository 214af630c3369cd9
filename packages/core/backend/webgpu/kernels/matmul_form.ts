/**
 * What all WGSL variants of the matrix product share: what a kernel is specialised for, its bindings and its params.
 *
 * @module
 */

import type { MatmulDims } from "../../check_shapes.ts";
import { declare } from "./wgsl.ts";

/** What one matmul kernel is specialised for, besides its variant. */
export interface MatmulForm {
  /** Which operand is transposed. */
  readonly layout: MatmulDims["layout"];
  /** Add to `out` instead of overwriting it. */
  readonly accumulate: boolean;
  /** Whether `a` is bound as vec4: start, stride and extent along its rows are multiples of 4. */
  readonly vectorA: boolean;
  /** The same for `b`. */
  readonly vectorB: boolean;
  /** The same for `out`. */
  readonly vectorOut: boolean;
  /** Whether k is not a multiple of the k that the variant takes per step. */
  readonly raggedK: boolean;
  /** Whether workgroups sum up parts of k, each part into an `out` of its own behind that of the part before. */
  readonly inParts: boolean;
}

/** Numbers that a matmul kernel gets at run time; starts and strides count vec4s where the operand is bound as such. */
export interface MatmulParams {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly aStart: number;
  readonly aStride: number;
  readonly bStart: number;
  readonly bStride: number;
  readonly outStart: number;
  readonly outStride: number;
  /** Tiles along m. */
  readonly rowTiles: number;
  /** Tiles along n. */
  readonly columnTiles: number;
  /** k of one part: all of it, or a multiple of the k of a slab. */
  readonly partK: number;
}

/** Names of the fields of {@linkcode MatmulParams}, in the order of the uniform. */
export const PARAM_NAMES = [
  "m",
  "n",
  "k",
  "aStart",
  "aStride",
  "bStart",
  "bStride",
  "outStart",
  "outStride",
  "rowTiles",
  "columnTiles",
  "partK",
] as const satisfies readonly (keyof MatmulParams)[];

/** Components of a vec4. */
export const XYZW = ["x", "y", "z", "w"] as const;

/** Row tiles that are gone through together before the next column tile, so that caches serve both operands. */
const TILE_ROWS_TOGETHER = 8;

/** `count` results of `text`, joined. */
export function each(count: number, text: (i: number) => string, separator = "\n"): string {
  return Array.from({ length: count }, (_, i) => text(i)).join(separator);
}

/** WGSL of the bindings `a`, `b`, `out` and `params`. */
export function bindings({ vectorA, vectorB, vectorOut }: MatmulForm): string {
  const element = (vector: boolean) => vector ? "vec4f" : "f32";
  return declare([
    ["a", "read", element(vectorA)],
    ["b", "read", element(vectorB)],
    ["out", "read_write", element(vectorOut)],
  ], PARAM_NAMES);
}

/** WGSL that finds the workgroup's `tile`, and the `part` of k that it sums up: from `k_start` to `k_end`. */
export function tileOfPart(number: string, { inParts }: MatmulForm): string {
  if (!inParts) return `let tile = ${number};\nconst k_start = 0u;\nlet k_end = params.k;`;
  return `let tiles = params.rowTiles * params.columnTiles;
let part = ${number} / tiles;
let tile = ${number} % tiles;
let k_start = part * params.partK;
let k_end = min(k_start + params.partK, params.k);
if (k_start >= params.k) { return; }`;
}

/** WGSL that turns the workgroup's number `tile` into the first row `m0` and column `n0` of its tile of `out`. */
export function tileOrigin(tileM: number, tileN: number): string {
  return `if (tile >= params.rowTiles * params.columnTiles) { return; }
let band = tile / (${TILE_ROWS_TOGETHER}u * params.columnTiles);
let bandRows = min(${TILE_ROWS_TOGETHER}u, params.rowTiles - band * ${TILE_ROWS_TOGETHER}u);
let inBand = tile - band * ${TILE_ROWS_TOGETHER}u * params.columnTiles;
let m0 = (band * ${TILE_ROWS_TOGETHER}u + inBand % bandRows) * ${tileM}u;
let n0 = inBand / bandRows * ${tileN}u;`;
}

/** WGSL that writes the vec4 variable `value` to four columns of `out`, as far as they lie within it. */
export function storeVector(form: MatmulForm, row: string, column: string, value: string): string {
  const operator = form.accumulate ? "+=" : "=";
  const outRow = form.inParts ? `part * params.m + ${row}` : row;
  const at = (index: string) => `out[params.outStart + (${outRow}) * params.outStride + ${index}]`;
  if (form.vectorOut) {
    return `if (${row} < params.m && ${column} < params.n) { ${at(`(${column}) / 4u`)} ${operator} ${value}; }`;
  }
  return each(4, (i) =>
    `if (${row} < params.m && ${column} + ${i}u < params.n) ` +
    `{ ${at(`${column} + ${i}u`)} ${operator} ${value}.${XYZW[i]}; }`);
}
