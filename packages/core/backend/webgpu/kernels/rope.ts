/**
 * Rotary position embedding in place. Dims: T rows, S tokens of a sequence, E head dim.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type Dispatcher, linearGrid, residual } from "../dispatch.ts";
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

function code(width: VectorWidth, plan: RowPlan): string {
  return `${vectorCode(width)}${reduceCode(plan)}
${
    declare(
      [["x", "read_write", "V"], ["table", "read", "V"]],
      [
        "rows",
        "columns",
        "half_head",
        "tokens",
        "first_row",
        "first_token",
        "end_token",
        "at_x",
        "at_table",
        "sign: f32",
      ],
    )
  }${
    rowMain(`
  let token = (params.first_row + row) % params.tokens;
  if (!live || token < params.first_token || token >= params.end_token) { return; }
  let turn = params.at_table + (token - params.first_token) * 2u * params.half_head;
  let base = params.at_x + row * params.columns;
  for (var p = lane; p < params.columns / 2u; p += LANES) {
    let i = p % params.half_head;
    let low = base + (p / params.half_head) * 2u * params.half_head + i;
    let high = low + params.half_head;
    let cosine = table[turn + i];
    let sine = table[turn + params.half_head + i] * params.sign;
    let a = x[low];
    let b = x[high];
    x[low] = a * cosine - b * sine;
    x[high] = b * cosine + a * sine;
  }
`)
  }`;
}

/** Launches `Ops.rope`. */
export function rope(dispatcher: Dispatcher, x: Tensor, table: Tensor, heads: number, inverse: boolean): void {
  const [tokens, headDim] = table.shape;
  const columns = heads * headDim;
  forRowBlocks(dispatcher, [table], ([tableBlock], { start, end }) => {
    forRowBlocks(dispatcher, [x], ([block], rows) => {
      const width = vectorWidth([block, tableBlock], [headDim / 2]);
      const plan = rowPlan(dispatcher, columns / 2 / width);
      const count = rows.end - rows.start;
      dispatcher.run({
        kernel: inverse ? "rope inverse" : "rope",
        code: code(width, plan),
        tensors: [{ tensor: block, access: "read_write" }, { tensor: tableBlock, access: "read" }],
        params: [
          ...[count, columns / width, headDim / 2 / width, tokens, rows.start, start, end],
          ...[residual(block) / width, residual(tableBlock) / width],
          { f32: inverse ? -1 : 1 },
        ],
        workgroups: linearGrid(Math.ceil(count / plan.rows)),
      });
    });
  });
}
