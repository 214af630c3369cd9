/**
 * AdamW (Loshchilov & Hutter 2019) in the order of operations of torch.optim.AdamW.
 *
 * @module
 */

import type { DType } from "../../tensor/shape.ts";
import type { AdamWOptions } from "../ops.ts";
import { randomBits, roundToBf16, roundToF16 } from "../stochastic_rounding.ts";

/** One step in place, with the gradient times `factor`; see `Ops.adamw`. */
export function adamw(
  param: Float32Array,
  grad: Float32Array,
  m: Float32Array,
  v: Float32Array,
  options: AdamWOptions,
  factor: number,
): void {
  const { learningRate, beta1, beta2, epsilon, weightDecay, step, gradientScale = 1 } = options;
  const keep = 1 - learningRate * weightDecay;
  const stepSize = learningRate / (1 - beta1 ** step);
  const rootCorrection = Math.sqrt(1 - beta2 ** step);
  for (let i = 0; i < param.length; i++) {
    const g = grad[i] * gradientScale * factor;
    m[i] += (g - m[i]) * (1 - beta1);
    v[i] = v[i] * beta2 + (1 - beta2) * g * g;
    param[i] = param[i] * keep - stepSize * m[i] / (Math.sqrt(v[i]) / rootCorrection + epsilon);
  }
}

/**
 * Rounds param, first and second moment to their dtypes; see `StochasticRounding`.
 *
 * @param arrays the numbers of param, m and v
 * @param dtypes their element types
 */
export function roundStochastically(
  [param, m, v]: readonly Float32Array[],
  [paramType, momentType]: readonly DType[],
  { rounding, step }: AdamWOptions,
): void {
  if (!rounding) return;
  const { start = 0 } = rounding;
  for (let i = 0; i < param.length; i++) {
    const { param: forParam, m: forM, v: forV } = randomBits(rounding, step, start + i);
    if (paramType === "f16") param[i] = roundToF16(param[i], forParam);
    if (momentType !== "bf16") continue;
    m[i] = roundToBf16(m[i], forM);
    v[i] = roundToBf16(v[i], forV);
  }
}
