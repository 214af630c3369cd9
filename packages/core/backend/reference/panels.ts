/**
 * Products of matrices that lie strided in larger arrays. Both factors are packed in f64 into panels of four rows or
 * columns, so that one inner loop with sixteen sums in registers serves all transpositions and strides.
 *
 * @module
 */

/** Rows of the left factor, and columns of the right one, in a panel. */
export const PANEL = 4;

/** A matrix within an array: element (i, j) is `elements[start + i · rowStride + j · columnStride]`. */
export interface Matrix {
  readonly elements: Float32Array | Float64Array;
  readonly start: number;
  readonly rows: number;
  readonly columns: number;
  readonly rowStride: number;
  readonly columnStride: number;
}

/** A contiguous array as a matrix of rows × columns. */
export function matrixOf(elements: Float32Array | Float64Array, rows: number, columns: number): Matrix {
  return { elements, start: 0, rows, columns, rowStride: columns, columnStride: 1 };
}

/** The transpose; the elements stay where they are. */
export function transposed({ elements, start, rows, columns, rowStride, columnStride }: Matrix): Matrix {
  return { elements, start, rows: columns, columns: rows, rowStride: columnStride, columnStride: rowStride };
}

/** Rows `first` on, `count` of them or as many as there are. */
export function rowsOf(matrix: Matrix, first: number, count: number): Matrix {
  const start = matrix.start + first * matrix.rowStride;
  return { ...matrix, start, rows: Math.min(count, matrix.rows - first) };
}

/** Elements that `count` packed rows of `k` elements take: whole panels. */
export function packedSize(count: number, k: number): number {
  return Math.ceil(count / PANEL) * PANEL * k;
}

/** Packs the rows of a matrix, interleaved by four; rows that the last panel lacks are zeros. */
export function packRows(
  { elements, start, rows, columns, rowStride, columnStride }: Matrix,
  target: Float64Array,
): void {
  let to = 0;
  for (let i = 0; i < rows; i += PANEL) {
    let from = start + i * rowStride;
    if (rows - i >= PANEL) {
      for (let p = 0; p < columns; p++, from += columnStride, to += PANEL) {
        target[to] = elements[from];
        target[to + 1] = elements[from + rowStride];
        target[to + 2] = elements[from + 2 * rowStride];
        target[to + 3] = elements[from + 3 * rowStride];
      }
    } else {
      for (let p = 0; p < columns; p++, from += columnStride, to += PANEL) {
        for (let j = 0; j < PANEL; j++) target[to + j] = i + j < rows ? elements[from + j * rowStride] : 0;
      }
    }
  }
}

/**
 * out = or += a · b. Sums run over the whole inner dim in f64 before they are stored.
 *
 * @param a packed rows of the left factor
 * @param b packed columns of the right factor
 * @param k inner dim
 */
export function multiplyPanels(a: Float64Array, b: Float64Array, k: number, out: Matrix, accumulate: boolean): void {
  const tile = new Float64Array(PANEL * PANEL);
  for (let i = 0; i < out.rows; i += PANEL) {
    for (let j = 0; j < out.columns; j += PANEL) {
      multiplyTile(a, i * k, b, j * k, k, tile);
      storeTile(tile, out, i, j, accumulate);
    }
  }
}

/** tile [4, 4] = the product of the panel of a at `p` and the panel of b at `q`. */
function multiplyTile(a: Float64Array, p: number, b: Float64Array, q: number, k: number, tile: Float64Array): void {
  let c00 = 0, c01 = 0, c02 = 0, c03 = 0;
  let c10 = 0, c11 = 0, c12 = 0, c13 = 0;
  let c20 = 0, c21 = 0, c22 = 0, c23 = 0;
  let c30 = 0, c31 = 0, c32 = 0, c33 = 0;
  for (const end = p + PANEL * k; p < end; p += PANEL, q += PANEL) {
    const b0 = b[q], b1 = b[q + 1], b2 = b[q + 2], b3 = b[q + 3];
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

function storeTile(tile: Float64Array, out: Matrix, row: number, column: number, accumulate: boolean): void {
  const { elements, rowStride, columnStride } = out;
  const rows = Math.min(PANEL, out.rows - row);
  const columns = Math.min(PANEL, out.columns - column);
  let rowStart = out.start + row * rowStride + column * columnStride;
  for (let i = 0; i < rows; i++, rowStart += rowStride) {
    for (let j = 0, at = rowStart; j < columns; j++, at += columnStride) {
      const product = tile[i * PANEL + j];
      elements[at] = accumulate ? elements[at] + product : product;
    }
  }
}
