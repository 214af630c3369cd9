/**
 * AdamW (Loshchilov & Hutter 2019) in the order of operations of torch.optim.AdamW.
 *
 * @module
 */

import type { AdamWOptions } from "../ops.ts";

/** One step in place, with the gradient times `factor`; see `Ops.adamw`. */
export function adamw(
  param: Float32Array,
  grad: Float32Array,
  m: Float32Array,
  v: Float32Array,
  options: AdamWOptions,
  factor: number,
): void {
  const { learningRate, beta1, beta2, epsilon, weightDecay, step } = options;
  const keep = 1 - learningRate * weightDecay;
  const stepSize = learningRate / (1 - beta1 ** step);
  const rootCorrection = Math.sqrt(1 - beta2 ** step);
  for (let i = 0; i < param.length; i++) {
    const g = grad[i] * factor;
    m[i] += (g - m[i]) * (1 - beta1);
    v[i] = v[i] * beta2 + (1 - beta2) * g * g;
    param[i] = param[i] * keep - stepSize * m[i] / (Math.sqrt(v[i]) / rootCorrection + epsilon);
  }
}
