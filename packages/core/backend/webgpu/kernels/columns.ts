/**
 * Blocks of columns of matrices with as many rows. Dims: T rows, M columns of x, N columns of out.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type DType, elementBytes } from "../../../tensor/shape.ts";
import { type Dispatcher, LINEAR_INDEX, linearGrid } from "../dispatch.ts";
import {
  accessCode,
  groupBinding,
  groupBlock,
  groupCode,
  groupStart,
  type GroupTensor,
  type GroupWidth,
  groupWidth,
  kernelName,
  withTensor,
} from "./groups.ts";
import { declare, forRowBlocks } from "./wgsl.ts";

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
function code(width: GroupWidth, dtype: DType, accumulate: boolean): string {
  const params = ["count", "columns", "x_width", "out_width", "x_column", "out_column", "at_x", "at_out"];
  const x: GroupTensor = { name: "x", dtype, use: "read" };
  const out: GroupTensor = { name: "out", dtype, use: accumulate ? "update" : "write" };
  return `${groupCode(width, accumulate ? "f32" : "u32")}
${declare([groupBinding(x, width), groupBinding(out, width)], params)}
${accessCode([x, out], width)}
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
  ${
    groupBlock(width, [
      [x, "row * params.x_width + params.x_column + column"],
      [out, "row * params.out_width + params.out_column + column"],
    ], accumulate ? "out += x;" : "out = x;")
  }
}
`;
}

/** Launches `Ops.copyColumns`. */
export function copyColumns(dispatcher: Dispatcher, copy: ColumnCopy, accumulate: boolean): void {
  if (accumulate) return run(dispatcher, copy, true);
  const perWord = 4 / elementBytes(copy.x.dtype);
  const [xColumn, outColumn, columns] = [copy.xColumn, copy.outColumn, copy.columns].map((count) => count / perWord);
  using x = copy.x.words();
  using out = copy.out.words();
  run(dispatcher, { x, xColumn, out, outColumn, columns }, false);
}

function run(dispatcher: Dispatcher, copy: ColumnCopy, accumulate: boolean): void {
  const { xColumn, outColumn, columns } = copy;
  const strides = [copy.x.shape[1], copy.out.shape[1], xColumn, outColumn];
  forRowBlocks(dispatcher, [copy.x, copy.out], ([x, out], { start, end }) => {
    const width = groupWidth([x, out], [...strides, columns]);
    const count = (end - start) * columns / width;
    const dtype = accumulate ? x.dtype : "u32";
    dispatcher.run({
      kernel: kernelName(accumulate ? "add columns" : "copy columns", [x]),
      code: {
        key: accumulate ? "add columns" : "copy columns",
        form: withTensor(width, "update", dtype),
        write: () => code(width, dtype, accumulate),
      },
      tensors: [{ tensor: x, access: "read" }, { tensor: out, access: "read_write" }],
      params: [
        ...[count, columns / width, ...strides.map((stride) => stride / width)],
        ...[x, out].map((tensor) => groupStart(tensor, width)),
      ],
      workgroups: linearGrid(Math.ceil(count / WORKGROUP)),
    });
  });
}
