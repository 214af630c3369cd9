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
  const half = out.dtype === "f16";
  const unit = canVectorize([out], [out.size]) ? 4 : half ? 2 : 1;
  const count = out.size / unit;
  dispatcher.run({
    kernel: "matmul add parts",
    code: addPartsSource(unit, half, accumulate),
    tensors: [{ tensor: sums, access: "read" }, { tensor: out, access: "read_write" }],
    params: [count, parts, residual(out) / unit],
    workgroups: linearGrid(Math.ceil(count / INVOCATIONS)),
  });
}

function addPartsSource(unit: 1 | 2 | 4, half: boolean, accumulate: boolean): string {
  const element = unit === 1 ? "f32" : `vec${unit}f`;
  const outElement = half ? (unit === 4 ? "vec2u" : "u32") : element;
  const earlier = !half
    ? "out[at]"
    : unit === 4
    ? "vec4f(unpack2x16float(out[at].x), unpack2x16float(out[at].y))"
    : "unpack2x16float(out[at])";
  const packed = unit === 4 ? "vec2u(pack2x16float(sum.xy), pack2x16float(sum.zw))" : "pack2x16float(sum)";
  return `${declare([["sums", "read", element], ["out", "read_write", outElement]], PARAMS)}
@compute @workgroup_size(${INVOCATIONS})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = ${LINEAR_INDEX} * ${INVOCATIONS}u + local;
  if (i >= params.count) { return; }
  let at = params.outStart + i;
  var sum = ${accumulate ? earlier : `${element}()`};
  for (var part = 0u; part < params.parts; part++) {
    sum += sums[part * params.count + i];
  }
  out[at] = ${half ? packed : "sum"};
}`;
}
