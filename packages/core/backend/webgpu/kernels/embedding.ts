/**
 * Token embedding and its deterministic backward. Dims: T rows, D model width, V vocabulary, N distinct ids.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type Dispatcher, LINEAR_INDEX, linearGrid, residual } from "../dispatch.ts";
import {
  declare,
  forRowBlocks,
  reduceCode,
  rowMain,
  type RowPlan,
  rowPlan,
  vectorCode,
  type VectorWidth,
  vectorWidth,
} from "./wgsl.ts";

function forwardCode(width: VectorWidth, plan: RowPlan): string {
  return `${vectorCode(width)}${reduceCode(plan)}
${
    declare(
      [["ids", "read", "u32"], ["table", "read", "V"], ["out", "read_write", "V"]],
      ["rows", "columns", "first_id", "end_id", "at_ids", "at_table", "at_out"],
    )
  }${
    rowMain(`
  if (!live) { return; }
  let id = ids[params.at_ids + row];
  if (id < params.first_id || id >= params.end_id) { return; }
  let source = params.at_table + (id - params.first_id) * params.columns;
  let target_row = params.at_out + row * params.columns;
  for (var c = lane; c < params.columns; c += LANES) { out[target_row + c] = table[source + c]; }
`)
  }`;
}

/** Launches `Ops.embedding`: one dispatch per block of rows and block of ids, which writes only rows of its ids. */
export function embedding(dispatcher: Dispatcher, ids: Tensor, table: Tensor, out: Tensor): void {
  const columns = table.shape[1];
  forRowBlocks(dispatcher, [table], ([tableBlock], { start, end }) => {
    forRowBlocks(dispatcher, [out, ids], ([outBlock, idBlock]) => {
      const width = vectorWidth([tableBlock, outBlock], [columns]);
      const plan = rowPlan(dispatcher, columns / width);
      dispatcher.run({
        kernel: "embedding",
        code: forwardCode(width, plan),
        tensors: [
          { tensor: idBlock, access: "read" },
          { tensor: tableBlock, access: "read" },
          { tensor: outBlock, access: "read_write" },
        ],
        params: [
          idBlock.size,
          columns / width,
          start,
          end,
          residual(idBlock),
          residual(tableBlock) / width,
          residual(outBlock) / width,
        ],
        workgroups: linearGrid(Math.ceil(idBlock.size / plan.rows)),
      });
    });
  });
}

/** Columns that a workgroup of the backward owns. */
const COLUMNS = 64;

/**
 * A workgroup owns some columns of one table row and adds the rows of its id one by one, four loads ahead of the sums,
 * so the order of the sum is that of the rows whatever the blocks.
 */
function backwardCode(width: VectorWidth): string {
  return `${vectorCode(width)}
${
    declare(
      [["order", "read", "u32"], ["segments", "read", "u32"], ["d_out", "read", "V"], ["d_table", "read_write", "V"]],
      [
        ...["columns", "column_groups", "segment_count", "first_id", "end_id", "first_row", "end_row"],
        ...["first_order", "end_order", "at_order", "at_segments", "at_d_out", "at_d_table"],
      ],
    )
  }
fn source(k: u32) -> u32 { return order[params.at_order + k - params.first_order]; }
fn inside(row: u32) -> bool { return row >= params.first_row && row < params.end_row; }

@compute @workgroup_size(${COLUMNS})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let group = ${LINEAR_INDEX};
  let segment = group / params.column_groups;
  let column = (group % params.column_groups) * ${COLUMNS}u + local;
  if (segment >= params.segment_count || column >= params.columns) { return; }
  let at = params.at_segments + 3u * segment;
  let id = segments[at];
  let end = min(segments[at + 2u], params.end_order);
  var k = max(segments[at + 1u], params.first_order);
  if (id < params.first_id || id >= params.end_id || k >= end) { return; }
  let base = params.at_d_out + column - params.first_row * params.columns;
  let place = params.at_d_table + (id - params.first_id) * params.columns + column;
  var sum = d_table[place];
  for (; k + 4u <= end; k += 4u) {
    let rows = vec4u(source(k), source(k + 1u), source(k + 2u), source(k + 3u));
    var terms: array<V, 4>;
    for (var j = 0u; j < 4u; j++) {
      terms[j] = V(0.0);
      if (inside(rows[j])) { terms[j] = d_out[base + rows[j] * params.columns]; }
    }
    sum = (((sum + terms[0]) + terms[1]) + terms[2]) + terms[3];
  }
  for (; k < end; k++) {
    let row = source(k);
    if (inside(row)) { sum += d_out[base + row * params.columns]; }
  }
  d_table[place] = sum;
}
`;
}

/** Launches `Ops.embeddingBackward`: one dispatch per combination of blocks; one in all when every tensor fits. */
export function embeddingBackward(
  dispatcher: Dispatcher,
  order: Tensor,
  segments: Tensor,
  dOut: Tensor,
  dTable: Tensor,
): void {
  const columns = dTable.shape[1];
  forRowBlocks(dispatcher, [dTable], ([tableBlock], ids) => {
    forRowBlocks(dispatcher, [segments], ([segmentBlock]) => {
      forRowBlocks(dispatcher, [order], ([orderBlock], places) => {
        forRowBlocks(dispatcher, [dOut], ([outBlock], rows) => {
          const width = vectorWidth([tableBlock, outBlock], [columns]);
          const columnGroups = Math.ceil(columns / width / COLUMNS);
          const count = segmentBlock.shape[0];
          dispatcher.run({
            kernel: "embedding_backward",
            code: backwardCode(width),
            tensors: [
              { tensor: orderBlock, access: "read" },
              { tensor: segmentBlock, access: "read" },
              { tensor: outBlock, access: "read" },
              { tensor: tableBlock, access: "read_write" },
            ],
            params: [
              ...[columns / width, columnGroups, count, ids.start, ids.end, rows.start, rows.end],
              ...[places.start, places.end, residual(orderBlock), residual(segmentBlock)],
              ...[residual(outBlock) / width, residual(tableBlock) / width],
            ],
            workgroups: linearGrid(count * columnGroups),
          });
        });
      }, Math.floor(dispatcher.limits.maxLoopTurns / 2));
    });
  });
}
