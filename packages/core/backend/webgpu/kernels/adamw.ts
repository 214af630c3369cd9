/**
 * One step of AdamW, with stochastic rounding of what has 16 bits.
 *
 * @module
 */

import type { DType } from "../../../tensor/shape.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import type { AdamWOptions } from "../../ops.ts";
import { HASH_STEP, roundingState } from "../../stochastic_rounding.ts";
import type { Dispatcher } from "../dispatch.ts";
import { type ElementwiseKernel, runElementwise } from "./elementwise.ts";
import { MIX_BITS } from "./init_normal.ts";
import { NOT_FINITE } from "./reductions.ts";

/** What tells one variant of the kernel from another. */
interface Variant {
  readonly clipped: boolean;
  readonly param: DType;
  readonly moments: DType;
}

/** As `stochastic_rounding.ts`, of numbers one by one: they have other random bits each. */
const ROUNDING = `${MIX_BITS}
fn random_bits(element: u32) -> vec3u {
  let low = params.start + element;
  let state = select(params.state, params.next_state, low < params.start);
  let bits = mix_bits(state ^ low);
  return vec3u(mix_bits(bits + ${HASH_STEP}u), bits & 0xffffu, bits >> 16u);
}
fn round_to_f16(x: f32, random: u32) -> f32 {
  let share = random & 0x1fffu;
  let size = abs(x);
  let bits = bitcast<u32>(size);
  let large = bitcast<f32>(min((bits + share) & 0xffffe000u, 0x477fe000u));
  let small = floor(size * 16777216.0 + f32(share) * ${2 ** -13}) * ${2 ** -24};
  let rounded = select(large, small, bits < 0x38800000u);
  return select(rounded, -rounded, x < 0.0);
}
fn round_to_bf16(x: f32, random: u32) -> f32 { return bitcast<f32>((bitcast<u32>(x) + random) & 0xffff0000u); }
`;

/** In the order of operations of torch.optim.AdamW; the host computes factors in f64, as 1 − β in f32 loses digits. */
function kernel({ clipped, param, moments }: Variant): ElementwiseKernel {
  const rounds = param !== "f32" || moments !== "f32";
  const fields = ["decay", "first_share", "second_decay", "second_share", "step_size", "root_correction", "epsilon"];
  return {
    kernel: clipped ? "adamw clipped" : "adamw",
    tensors: [["param", "update"], ["grad", "read"], ["m", "update"], ["v", "update"]],
    whole: clipped ? [["clip", "read"]] : [],
    fields: [
      ...[...fields, "gradient_scale"].map((name) => `${name}: f32`),
      ...rounds ? ["start", "state", "next_state"] : [],
    ],
    functions: `${clipped ? NOT_FINITE : ""}${rounds ? ROUNDING : ""}`,
    before: clipped ? "if (not_finite(clip[params.at_clip])) { return; }" : "",
    body: (components) => `
  let g = grad * params.gradient_scale${clipped ? " * clip[params.at_clip + 1u]" : ""};
  m += (g - m) * params.first_share;
  v = v * params.second_decay + g * g * params.second_share;
  let root = sqrt(v) / params.root_correction + params.epsilon;
  param = param * params.decay - params.step_size * (m / root);
  ${rounds ? roundingCode(components, param === "f16", moments === "bf16") : ""}`,
  };
}

function roundingCode(components: number, param: boolean, moments: boolean): string {
  const lines = Array.from({ length: components }, (_, i) => {
    const at = components === 1 ? "" : `[${i}]`;
    return [
      `let random_${i} = random_bits(element + ${i}u);`,
      param ? `param${at} = round_to_f16(param${at}, random_${i}.x);` : "",
      moments ? `m${at} = round_to_bf16(m${at}, random_${i}.y); v${at} = round_to_bf16(v${at}, random_${i}.z);` : "",
    ].join(" ");
  });
  return lines.join("\n  ");
}

/** All variants, so that none is put together for a dispatch. */
const KERNELS = [false, true].map((clipped) =>
  (["f32", "f16"] as const).map((param) =>
    (["f32", "bf16"] as const).map((moments) => kernel({ clipped, param, moments }))
  )
);

/** Launches `Ops.adamw`. */
export function adamw(
  dispatcher: Dispatcher,
  tensors: { param: Tensor; grad: Tensor; m: Tensor; v: Tensor; clip?: Tensor },
  options: AdamWOptions,
): void {
  const { param, grad, m, v, clip } = tensors;
  const { learningRate, beta1, beta2, epsilon, weightDecay, step, gradientScale = 1, rounding } = options;
  const factors = [
    1 - learningRate * weightDecay,
    1 - beta1,
    beta2,
    1 - beta2,
    learningRate / (1 - beta1 ** step),
    Math.sqrt(1 - beta2 ** step),
    epsilon,
    gradientScale,
  ].map((f32) => ({ f32 }));
  const halfParam = param.dtype !== "f32";
  const halfMoments = m.dtype !== "f32";
  const rounds = halfParam || halfMoments;
  runElementwise(dispatcher, KERNELS[Number(clip !== undefined)][Number(halfParam)][Number(halfMoments)], {
    tensors: [param, grad, m, v],
    whole: clip ? [clip] : [],
    params: (skipped) => {
      if (!rounds || !rounding) return factors;
      const first = (rounding.start ?? 0) + skipped;
      const high = Math.floor(first / 2 ** 32);
      return [...factors, first >>> 0, ...[high, high + 1].map((each) => roundingState(rounding, step, each))];
    },
  });
}
