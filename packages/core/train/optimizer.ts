/**
 * AdamW over all parameters with clipping by the global gradient norm.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import { type AdamWOptions, PARTIAL_SUMS } from "../backend/ops.ts";
import type { Parameter } from "../layer/parameter.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Stands for no clipping where the norm is still wanted: finite, since WGSL leaves infinities undefined. */
const UNREACHABLE_NORM = 3e38;

/** First and second moments of every trained parameter. */
export interface Optimizer {
  /**
   * One update from the gradients, which are then zeroed. Returns [2]: the global norm before clipping, and the factor
   * gradients were scaled by; owned by the caller.
   *
   * @param clipNorm largest global norm; 0 turns clipping off
   */
  step(options: AdamWOptions, clipNorm: number): Tensor;
  /** Frees the moments. */
  free(): void;
}

/** AdamW in f32 with its moments on the device; 8 bytes a parameter. */
export function createAdamW(backend: Backend, parameters: readonly Parameter[]): Optimizer {
  const { ops } = backend;
  const states = parameters.flatMap(({ value, gradient }) =>
    gradient
      ? [{
        value,
        gradient,
        m: zeros(backend, value.shape, "optimizer"),
        v: zeros(backend, value.shape, "optimizer"),
      }]
      : []
  );

  return {
    step(options: AdamWOptions, clipNorm: number): Tensor {
      const clip = backend.empty([2], "scratch");
      using partials = zeros(backend, [PARTIAL_SUMS], "scratch");
      for (const { gradient } of states) ops.sumSquares(gradient, partials);
      ops.clipFactor(partials, clip, clipNorm > 0 ? clipNorm : UNREACHABLE_NORM);
      for (const { value, gradient, m, v } of states) {
        ops.adamw(value, gradient, m, v, options, clipNorm > 0 ? clip : undefined);
        ops.fill(gradient, 0);
      }
      return clip;
    },

    free(): void {
      for (const { m, v } of states) {
        m.free();
        v.free();
      }
    },
  };
}
