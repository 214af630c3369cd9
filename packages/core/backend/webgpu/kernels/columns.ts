/**
 * Blocks of columns of matrices with as many rows. Dims: T rows, M columns of x, N columns of out.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type Dispatcher, LINEAR_INDEX, linearGrid, residual } from "../dispatch.ts";
import { declare, forRowBlocks, type VectorWidth, vectorWidth } from "./wgsl.ts";

/** Invocations of a workgroup, each with one load. */
const WORKGROUP = 256;

/** What is copied where. */
export interface ColumnCopy {
  /** Source [T, M]. */
  readonly x: Tensor;
  /** First column of x. */
  readonly xColumn: number;
  /** Target [T, N]. */
  readonly out: Tensor;
  /** First column of out. */
  readonly outColumn: number;
  /** Number of columns. */
  readonly columns: number;
}

/** Bits that are only moved are moved as integers, which no device rounds or flushes. */
function code(width: VectorWidth, accumulate: boolean): string {
  const element = accumulate ? "f32" : "u32";
  const params = ["count", "columns", "x_width", "out_width", "at_x", "at_out"];
  return `alias V = ${width === 4 ? `vec4<${element}>` : element};
${declare([["x", "read", "V"], ["out", "read_write", "V"]], params)}
@compute @workgroup_size(${WORKGROUP})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = ${LINEAR_INDEX} * ${WORKGROUP}u + local;
  if (i >= params.count) { return; }
  let row = i / params.columns;
  let column = i % params.columns;
  out[params.at_out + row * params.out_width + column] ${accumulate ? "+=" : "="}
    x[params.at_x + row * params.x_width + column];
}
`;
}

/** Launches `Ops.copyColumns`. */
export function copyColumns(dispatcher: Dispatcher, copy: ColumnCopy, accumulate: boolean): void {
  const { xColumn, outColumn, columns } = copy;
  const [xWidth, outWidth] = [copy.x.shape[1], copy.out.shape[1]];
  forRowBlocks(dispatcher, [copy.x, copy.out], ([x, out], { start, end }) => {
    const width = vectorWidth([x, out], [xWidth, outWidth, xColumn, outColumn, columns]);
    const count = (end - start) * columns / width;
    dispatcher.run({
      kernel: accumulate ? "add columns" : "copy columns",
      code: code(width, accumulate),
      tensors: [{ tensor: x, access: "read" }, { tensor: out, access: "read_write" }],
      params: [
        ...[count, columns / width, xWidth / width, outWidth / width],
        ...[(residual(x) + xColumn) / width, (residual(out) + outColumn) / width],
      ],
      workgroups: linearGrid(Math.ceil(count / WORKGROUP)),
    });
  });
}
