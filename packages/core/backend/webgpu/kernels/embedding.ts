/**
 * Token embedding and its deterministic backward. Dims: T rows, D model width, V vocabulary, N distinct ids.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type Dispatcher, LINEAR_INDEX, linearGrid, residual } from "../dispatch.ts";
import { bindGroups, groupWidth, kernelName } from "./groups.ts";
import {
  declare,
  forRowBlocks,
  reduceCode,
  rowMain,
  type RowPlan,
  rowPlan,
  type VectorWidth,
  vectorWidth,
  withPlan,
} from "./wgsl.ts";

/** Rows are moved as integers, which no device rounds or flushes. */
function forwardCode(width: VectorWidth, plan: RowPlan): string {
  const words = width === 4 ? "vec4u" : "u32";
  return `${reduceCode(plan)}
${
    declare(
      [["ids", "read", "u32"], ["table", "read", words], ["out", "read_write", words]],
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
  using tableWords = table.words();
  using outWords = out.words();
  const columns = tableWords.shape[1];
  forRowBlocks(dispatcher, [tableWords], ([tableBlock], { start, end }) => {
    forRowBlocks(dispatcher, [outWords, ids], ([outBlock, idBlock]) => {
      const width = vectorWidth([tableBlock, outBlock], [columns]);
      const plan = rowPlan(dispatcher, columns / width);
      dispatcher.run({
        kernel: kernelName("embedding", [table]),
        code: {
          key: "embedding",
          form: withPlan(width, plan),
          write: () => forwardCode(width, plan),
        },
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
function backwardCode(bindings: string): string {
  return `${bindings}
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
  let base = column - params.first_row * params.columns;
  let place = (id - params.first_id) * params.columns + column;
  var sum = load_d_table(place);
  for (; k + 4u <= end; k += 4u) {
    let rows = vec4u(source(k), source(k + 1u), source(k + 2u), source(k + 3u));
    var terms: array<V, 4>;
    for (var j = 0u; j < 4u; j++) {
      terms[j] = V(0.0);
      if (inside(rows[j])) { terms[j] = load_d_out(base + rows[j] * params.columns); }
    }
    sum = (((sum + terms[0]) + terms[1]) + terms[2]) + terms[3];
  }
  for (; k < end; k++) {
    let row = source(k);
    if (inside(row)) { sum += load_d_out(base + row * params.columns); }
  }
  store_d_table(place, sum);
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
          const width = groupWidth([tableBlock, outBlock], [columns], 4);
          const columnGroups = Math.ceil(columns / width / COLUMNS);
          const count = segmentBlock.shape[0];
          const bound = bindGroups(width, [
            { name: "d_out", use: "read", tensor: outBlock },
            { name: "d_table", use: "update", tensor: tableBlock },
          ], [
            { name: "order", access: "read", element: "u32", tensor: orderBlock },
            { name: "segments", access: "read", element: "u32", tensor: segmentBlock },
          ], {
            columns: columns / width,
            column_groups: columnGroups,
            segment_count: count,
            first_id: ids.start,
            end_id: ids.end,
            first_row: rows.start,
            end_row: rows.end,
            first_order: places.start,
            end_order: places.end,
          });
          dispatcher.run({
            kernel: kernelName("embedding_backward", [dOut]),
            code: { key: "embedding_backward", form: bound.form, write: () => backwardCode(bound.code()) },
            tensors: bound.tensors,
            params: bound.params,
            workgroups: linearGrid(count * columnGroups),
          });
        });
      }, Math.floor(dispatcher.limits.maxLoopTurns / 2));
    });
  });
}
