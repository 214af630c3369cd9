/**
 * Reproducible, nearly normal numbers; the same bits as `backend/init_normal.ts`.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { UNIFORM_SUM_MEAN, UNIFORM_SUM_STD } from "../../init_normal.ts";
import type { InitNormalOptions } from "../../ops.ts";
import type { Dispatcher } from "../dispatch.ts";
import { type ElementwiseKernel, runElementwise } from "./elementwise.ts";

/** `mix_bits(bits)`, as `mixBits` of `backend/init_normal.ts`. */
export const MIX_BITS = `
fn mix_bits(bits: u32) -> u32 {
  var x = (bits ^ (bits >> 16u)) * 0x85ebca6bu;
  x = (x ^ (x >> 13u)) * 0xc2b2ae35u;
  return x ^ (x >> 16u);
}
`;

const FUNCTIONS = `${MIX_BITS}
fn uniform_sum(low: u32, high: u32) -> u32 {
  let state = mix_bits(mix_bits(mix_bits(mix_bits(params.seed ^ 0x9e3779b9u) ^ params.stream) ^ high) ^ low);
  var sum = 0u;
  for (var i = 1u; i <= 4u; i++) {
    let bits = mix_bits(state + i * 0x9e3779b9u);
    sum += (bits & 0xffffu) + (bits >> 16u);
  }
  return sum;
}
fn normal(element: u32) -> f32 {
  let offset = element + (element + params.phase) / params.columns * params.gap;
  let low = params.start_low + offset;
  let high = params.start_high + select(0u, 1u, low < offset);
  return f32(i32(uniform_sum(low, high)) - ${UNIFORM_SUM_MEAN}) * params.factor;
}
`;

const INIT_NORMAL: ElementwiseKernel = {
  kernel: "init_normal",
  tensors: [["out", "write"]],
  fields: ["seed", "stream", "start_low", "start_high", "phase", "columns", "gap", "factor: f32"],
  functions: FUNCTIONS,
  body: (components) => {
    const numbers = Array.from({ length: components }, (_, i) => `normal(element + ${i}u)`);
    return `out = V(${numbers.join(", ")});`;
  },
};

/** Launches `Ops.initNormal`. */
export function initNormal(dispatcher: Dispatcher, out: Tensor, options: InitNormalOptions): void {
  const columns = out.shape.at(-1) ?? 1;
  const { std, seed, stream, start = 0, stride = columns } = options;
  const gap = stride - columns; // elements of a row of the whole weight that are not in the tensor
  runElementwise(dispatcher, INIT_NORMAL, {
    tensors: [out],
    params: (skipped) => {
      const phase = gap === 0 ? 0 : skipped % columns;
      const first = start + skipped + (gap === 0 ? 0 : Math.floor(skipped / columns) * gap);
      const [low, high] = [first >>> 0, Math.floor(first / 2 ** 32) >>> 0];
      return [seed, stream, low, high, phase, Math.max(1, columns), gap, { f32: std / UNIFORM_SUM_STD }];
    },
  });
}
