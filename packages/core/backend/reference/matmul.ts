/**
 * Matrix products. Both factors are packed into panels of four rows or columns, so that one inner loop with sixteen
 * sums in registers serves all transpositions. Sums run over the whole inner dim in f64 and are rounded once.
 *
 * @module
 */

import type { MatmulDims } from "../check_shapes.ts";

/** Rows and columns of the block of `out` that is held in registers. */
const TILE = 4;

/** Elements of packed `b` that are kept at a time: 1 MiB of f64, so that they stay in a second-level cache. */
const PACKED_ELEMENTS = 1 << 17;

/** How a packed factor lies in memory: element (i, p) is at i · outer + p · inner, p along the inner dim of the product. */
interface Strides {
  readonly outer: number;
  readonly inner: number;
}

/** out [m, n] = or += a · b; see `Ops.matmul`. */
export function matmul(
  a: Float32Array,
  b: Float32Array,
  out: Float32Array,
  { layout, m, n, k }: MatmulDims,
  accumulate: boolean,
): void {
  const aStrides = layout === "TN" ? { outer: 1, inner: m } : { outer: k, inner: 1 };
  const bStrides = layout === "NT" ? { outer: k, inner: 1 } : { outer: 1, inner: n };
  const blockColumns = Math.min(roundUp(n), Math.max(TILE, roundUp(Math.floor(PACKED_ELEMENTS / Math.max(k, 1)))));
  const packedA = new Float64Array(TILE * k);
  const packedB = new Float64Array(blockColumns * k);
  const tile = new Float64Array(TILE * TILE);
  for (let column = 0; column < n; column += blockColumns) {
    const columns = Math.min(blockColumns, n - column);
    for (let j = 0; j < columns; j += TILE) {
      packPanel(b, bStrides, column + j, Math.min(TILE, columns - j), k, packedB, j * k);
    }
    for (let i = 0; i < m; i += TILE) {
      const rows = Math.min(TILE, m - i);
      packPanel(a, aStrides, i, rows, k, packedA, 0);
      for (let j = 0; j < columns; j += TILE) {
        multiplyPanels(packedA, packedB, j * k, k, tile);
        storeTile(tile, out, i * n + column + j, n, rows, Math.min(TILE, columns - j), accumulate);
      }
    }
  }
}

/** Copies up to four rows (of a) or columns (of b) from `first` on, interleaved, with zeros for those that lack. */
function packPanel(
  source: Float32Array,
  { outer, inner }: Strides,
  first: number,
  count: number,
  k: number,
  target: Float64Array,
  at: number,
): void {
  let from = first * outer;
  if (count === TILE) {
    for (let p = 0; p < k; p++, from += inner, at += TILE) {
      target[at] = source[from];
      target[at + 1] = source[from + outer];
      target[at + 2] = source[from + 2 * outer];
      target[at + 3] = source[from + 3 * outer];
    }
    return;
  }
  for (let p = 0; p < k; p++, from += inner, at += TILE) {
    for (let i = 0; i < TILE; i++) target[at + i] = i < count ? source[from + i * outer] : 0;
  }
}

/** tile [4, 4] = the product of a panel of a and the panel of b that starts at `at`. */
function multiplyPanels(a: Float64Array, b: Float64Array, at: number, k: number, tile: Float64Array): void {
  let c00 = 0, c01 = 0, c02 = 0, c03 = 0;
  let c10 = 0, c11 = 0, c12 = 0, c13 = 0;
  let c20 = 0, c21 = 0, c22 = 0, c23 = 0;
  let c30 = 0, c31 = 0, c32 = 0, c33 = 0;
  for (let p = 0, end = TILE * k; p < end; p += TILE, at += TILE) {
    const b0 = b[at], b1 = b[at + 1], b2 = b[at + 2], b3 = b[at + 3];
    const a0 = a[p], a1 = a[p + 1], a2 = a[p + 2], a3 = a[p + 3];
    c00 += a0 * b0, c01 += a0 * b1, c02 += a0 * b2, c03 += a0 * b3;
    c10 += a1 * b0, c11 += a1 * b1, c12 += a1 * b2, c13 += a1 * b3;
    c20 += a2 * b0, c21 += a2 * b1, c22 += a2 * b2, c23 += a2 * b3;
    c30 += a3 * b0, c31 += a3 * b1, c32 += a3 * b2, c33 += a3 * b3;
  }
  tile[0] = c00, tile[1] = c01, tile[2] = c02, tile[3] = c03;
  tile[4] = c10, tile[5] = c11, tile[6] = c12, tile[7] = c13;
  tile[8] = c20, tile[9] = c21, tile[10] = c22, tile[11] = c23;
  tile[12] = c30, tile[13] = c31, tile[14] = c32, tile[15] = c33;
}

function storeTile(
  tile: Float64Array,
  out: Float32Array,
  at: number,
  stride: number,
  rows: number,
  columns: number,
  accumulate: boolean,
): void {
  for (let i = 0; i < rows; i++, at += stride) {
    for (let j = 0; j < columns; j++) {
      const product = tile[i * TILE + j];
      out[at + j] = accumulate ? out[at + j] + product : product;
    }
  }
}

function roundUp(count: number): number {
  return Math.ceil(count / TILE) * TILE;
}
