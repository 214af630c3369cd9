/**
 * Matrix products.
 *
 * @module
 */

import type { MatmulDims } from "../check_shapes.ts";
import { matrixOf, multiplyPanels, packedSize, packRows, PANEL, rowsOf, transposed } from "./panels.ts";

/** Elements of packed `b` that are kept at a time: 1 MiB of f64, so that they stay in a second-level cache. */
const PACKED_ELEMENTS = 1 << 17;

/** out [m, n] = or += a · b; see `Ops.matmul`. */
export function matmul(
  a: Float32Array,
  b: Float32Array,
  out: Float32Array,
  { layout, m, n, k }: MatmulDims,
  accumulate: boolean,
): void {
  const aRows = layout === "TN" ? transposed(matrixOf(a, k, m)) : matrixOf(a, m, k);
  const bColumns = layout === "NT" ? matrixOf(b, n, k) : transposed(matrixOf(b, k, n));
  const blockColumns = Math.max(PANEL, Math.min(n, Math.floor(PACKED_ELEMENTS / Math.max(k, 1))));
  const packedA = new Float64Array(packedSize(PANEL, k));
  const packedB = new Float64Array(packedSize(blockColumns, k));
  for (let column = 0; column < n; column += blockColumns) {
    const block = rowsOf(bColumns, column, blockColumns);
    packRows(block, packedB);
    for (let row = 0; row < m; row += PANEL) {
      const panel = rowsOf(aRows, row, PANEL);
      packRows(panel, packedA);
      const target = {
        elements: out,
        start: row * n + column,
        rows: panel.rows,
        columns: block.rows,
        rowStride: n,
        columnStride: 1,
      };
      multiplyPanels(packedA, packedB, k, target, accumulate);
    }
  }
}
