/**
 * Blocks of columns.
 *
 * @module
 */

/** A matrix and the first of its columns that count. */
export interface ColumnBlock {
  /** Elements, row-major. */
  readonly values: Float32Array;
  /** Columns of the whole matrix. */
  readonly width: number;
  /** First column of the block. */
  readonly column: number;
}

/** Copies, or adds, `columns` columns of every row from one matrix to another; see `Ops.copyColumns`. */
export function copyColumns(
  from: ColumnBlock,
  to: ColumnBlock,
  rows: number,
  columns: number,
  accumulate: boolean,
): void {
  for (let row = 0; row < rows; row++) {
    const [source, target] = [from, to].map(({ values, width, column }) => {
      const start = row * width + column;
      return values.subarray(start, start + columns);
    });
    if (!accumulate) target.set(source);
    else for (let i = 0; i < columns; i++) target[i] += source[i];
  }
}
