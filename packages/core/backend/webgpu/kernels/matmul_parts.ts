/**
 * Adds up what workgroups have summed over parts of k, part by part, so that the result is deterministic.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { canVectorize, type Dispatcher, LINEAR_INDEX, linearGrid, residual } from "../dispatch.ts";
import { declare } from "./wgsl.ts";

const INVOCATIONS = 256;

const PARAMS = ["count", "parts", "outStart"] as const;

/**
 * out [m, n] = or += the sum of `parts` times [m, n] at the beginning of the workspace.
 */
export function addParts(dispatcher: Dispatcher, out: Tensor, parts: number, accumulate: boolean): void {
  using sums = dispatcher.workspace().rows(0, parts * out.size);
  const vector = canVectorize([out], [out.size]);
  const unit = vector ? 4 : 1;
  const count = out.size / unit;
  dispatcher.run({
    kernel: "matmul add parts",
    code: addPartsSource(vector, accumulate),
    tensors: [{ tensor: sums, access: "read" }, { tensor: out, access: "read_write" }],
    params: [count, parts, residual(out) / unit],
    workgroups: linearGrid(Math.ceil(count / INVOCATIONS)),
  });
}

function addPartsSource(vector: boolean, accumulate: boolean): string {
  const element = vector ? "vec4f" : "f32";
  return `${declare([["sums", "read", element], ["out", "read_write", element]], PARAMS)}
@compute @workgroup_size(${INVOCATIONS})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = ${LINEAR_INDEX} * ${INVOCATIONS}u + local;
  if (i >= params.count) { return; }
  var sum = ${element}();
  for (var part = 0u; part < params.parts; part++) {
    sum += sums[part * params.count + i];
  }
  out[params.outStart + i] ${accumulate ? "+=" : "="} sum;
}`;
}
