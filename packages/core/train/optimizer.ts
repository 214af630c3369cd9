/**
 * AdamW over all parameters with clipping by the global gradient norm.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import { type AdamWOptions, PARTIAL_SUMS } from "../backend/ops.ts";
import type { Parameter } from "../layer/parameter.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { StateSharding } from "./state_sharding.ts";

/** Stands for no clipping where the norm is still wanted: finite, since WGSL leaves infinities undefined. */
const UNREACHABLE_NORM = 3e38;

/** First and second moments of every trained parameter, or of the elements that this rank owns. */
export interface Optimizer {
  /** Sums the gradients over ranks as far as {@linkcode Optimizer.step} needs them; once before each step. */
  reduceGradients(): Promise<void>;
  /**
   * One update from the summed gradients, which are then zeroed. Returns [2]: the global norm before clipping, and the
   * factor gradients were scaled by; owned by the caller.
   *
   * @param clipNorm largest global norm; 0 turns clipping off
   */
  step(options: AdamWOptions, clipNorm: number): Promise<Tensor>;
  /** Frees the moments. */
  free(): void;
}

/** AdamW in f32 with its moments on the device; 8 bytes for every element that this rank owns. */
export function createAdamW(backend: Backend, parameters: readonly Parameter[], sharding: StateSharding): Optimizer {
  const { ops } = backend;
  const trained = parameters.flatMap(({ value, gradient }) => gradient ? [{ value, gradient }] : []);
  const states = trained.flatMap(({ value, gradient }) => {
    const { start, end } = sharding.own(value.size);
    if (start === end) return [];
    return [{
      value: value.elements(start, end),
      gradient: gradient.elements(start, end),
      m: zeros(backend, [end - start], "optimizer"),
      v: zeros(backend, [end - start], "optimizer"),
    }];
  });

  return {
    reduceGradients: () => sharding.reduceGradients(trained.map(({ gradient }) => gradient)),

    async step(options: AdamWOptions, clipNorm: number): Promise<Tensor> {
      const clip = backend.empty([2], "scratch");
      using partials = zeros(backend, [PARTIAL_SUMS], "scratch");
      for (const { gradient } of states) ops.sumSquares(gradient, partials);
      await sharding.sumSquares(partials);
      ops.clipFactor(partials, clip, clipNorm > 0 ? clipNorm : UNREACHABLE_NORM);
      for (const { value, gradient, m, v } of states) {
        ops.adamw(value, gradient, m, v, options, clipNorm > 0 ? clip : undefined);
      }
      for (const { gradient } of trained) ops.fill(gradient, 0);
      await sharding.gatherWeights(trained.map(({ value }) => value));
      return clip;
    },

    free(): void {
      for (const state of states) Object.values(state).forEach((tensor) => tensor.free());
    },
  };
}
