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
  /** Whether `a` and `b` are f16, two in a word. */
  readonly half: boolean;
  /** Whether `out` is. */
  readonly halfOut: boolean;
  /** Whether `a` is bound as vec4: start, stride and extent along its rows are multiples of 4. */
  readonly vectorA: boolean;
  /** The same for `b`. */
  readonly vectorB: boolean;
  /** The same for `out`. */
  readonly vectorOut: boolean;
  /** Whether tiles reach over the last row or column of `out`; said where a variant asks for it. */
  readonly raggedM?: boolean;
  readonly raggedN?: boolean;
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

/** The values of {@linkcode PARAM_NAMES}. */
export function paramValues(params: MatmulParams): number[] {
  const { m, n, k, aStart, aStride, bStart, bStride, outStart, outStride, rowTiles, columnTiles, partK } = params;
  return [m, n, k, aStart, aStride, bStart, bStride, outStart, outStride, rowTiles, columnTiles, partK];
}

/** A number that tells forms of one layout apart; see `KernelSource`. */
export function formNumber(form: MatmulForm): number {
  const { accumulate, half, halfOut, vectorA, vectorB, vectorOut, raggedM, raggedN, raggedK, inParts } = form;
  return Number(accumulate) | Number(half) << 1 | Number(halfOut) << 2 | Number(vectorA) << 3 | Number(vectorB) << 4 |
    Number(vectorOut) << 5 | Number(raggedM ?? false) << 6 | Number(raggedN ?? false) << 7 | Number(raggedK) << 8 |
    Number(inParts) << 9;
}

/** Components of a vec4. */
export const XYZW = ["x", "y", "z", "w"] as const;

/** Row tiles that are gone through together before the next column tile, so that caches serve both operands. */
const TILE_ROWS_TOGETHER = 8;

/** `count` results of `text`, joined. */
export function each(count: number, text: (i: number) => string, separator = "\n"): string {
  return Array.from({ length: count }, (_, i) => text(i)).join(separator);
}

/**
 * WGSL of the bindings `a`, `b`, `out` and `params`, and of `load_a(i)` and `load_b(i)`, which return the vec4f, or the
 * one number, at place i of an operand.
 */
export function bindings({ vectorA, vectorB, vectorOut, half, halfOut }: MatmulForm): string {
  const element = (vector: boolean, pairs: boolean) => pairs ? (vector ? "vec2u" : "u32") : vector ? "vec4f" : "f32";
  return declare([
    ["a", "read", element(vectorA, half)],
    ["b", "read", element(vectorB, half)],
    ["out", "read_write", element(vectorOut, halfOut)],
  ], PARAM_NAMES) + loadFunction("a", vectorA, half) + loadFunction("b", vectorB, half);
}

function loadFunction(name: "a" | "b", vector: boolean, half: boolean): string {
  if (!half) return `fn load_${name}(i: u32) -> ${vector ? "vec4f" : "f32"} { return ${name}[i]; }\n`;
  if (vector) {
    return `fn load_${name}(i: u32) -> vec4f {
  let pairs = ${name}[i];
  return vec4f(unpack2x16float(pairs.x), unpack2x16float(pairs.y));
}
`;
  }
  return `fn load_${name}(i: u32) -> f32 {
  let pair = unpack2x16float(${name}[i / 2u]);
  return select(pair.x, pair.y, i % 2u == 1u);
}
`;
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
  const outRow = form.inParts ? `part * params.m + ${row}` : row;
  const at = (index: string) => `params.outStart + (${outRow}) * params.outStride + ${index}`;
  const inside = (first: number) => `${row} < params.m && ${column} + ${first}u < params.n`;
  if (form.vectorOut) return `if (${inside(0)}) { ${storeAt(form, at(`(${column}) / 4u`), value)} }`;
  if (!form.halfOut) {
    return each(4, (i) => `if (${inside(i)}) { ${storeAt(form, at(`${column} + ${i}u`), `${value}.${XYZW[i]}`)} }`);
  }
  // Columns, rows and starts are even, so that a word has one writer.
  return each(2, (i) => {
    const place = `(${at(`${column} + ${2 * i}u`)}) / 2u`;
    const pair = `${value}.${i === 0 ? "xy" : "zw"}`;
    const sum = form.accumulate ? `unpack2x16float(out[${place}]) + ${pair}` : pair;
    return `if (${inside(2 * i)}) { out[${place}] = pack2x16float(${sum}); }`;
  });
}

function storeAt({ accumulate, halfOut }: MatmulForm, place: string, value: string): string {
  if (!halfOut) return `out[${place}] ${accumulate ? "+=" : "="} ${value};`;
  const sum = accumulate
    ? `(${value} + vec4f(unpack2x16float(out[${place}].x), unpack2x16float(out[${place}].y)))`
    : value;
  return `{ let sum = ${sum}; out[${place}] = vec2u(pack2x16float(sum.xy), pack2x16float(sum.zw)); }`;
}
