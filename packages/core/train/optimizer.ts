/**
 * AdamW over all parameters with clipping by the global gradient norm.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import { type AdamWOptions, PARTIAL_SUMS } from "../backend/ops.ts";
import type { ModelStates, OwnElements } from "../sharding/model_states.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Stands for no clipping where the norm is still wanted: finite, since WGSL leaves infinities undefined. */
const UNREACHABLE_NORM = 3e38;

/** The elements of a parameter that this rank updates, with their moments. */
export interface UpdatedElements extends OwnElements {
  /** First moment, flat. */
  readonly m: Tensor;
  /** Second moment, flat. */
  readonly v: Tensor;
}

/** First and second moments of the elements that this rank updates. */
export interface Optimizer {
  /** What is updated; the tensors stay the optimizer's. */
  readonly updated: readonly UpdatedElements[];
  /**
   * One update from the reduced gradients, which start from zero afterwards. Returns [2]: the global norm before clipping,
   * and the factor gradients were scaled by; owned by the caller.
   *
   * @param clipNorm largest global norm; 0 turns clipping off
   */
  step(options: AdamWOptions, clipNorm: number): Promise<Tensor>;
  /** Frees the moments. */
  free(): void;
}

/** AdamW in f32 with its moments on the device; 8 bytes for every element that this rank updates. */
export function createAdamW(backend: Backend, states: ModelStates): Optimizer {
  const { ops } = backend;
  const updated = states.own().map((own) => ({
    ...own,
    m: zeros(backend, own.value.shape, "optimizer"),
    v: zeros(backend, own.value.shape, "optimizer"),
  }));

  return {
    updated,

    async step(options: AdamWOptions, clipNorm: number): Promise<Tensor> {
      const clip = backend.empty([2], "scratch");
      using partials = zeros(backend, [PARTIAL_SUMS], "scratch");
      for (const { gradient, inNorm } of updated) {
        if (inNorm) ops.sumSquares(gradient, partials);
      }
      await states.sumSquares(partials);
      ops.clipFactor(partials, clip, clipNorm > 0 ? clipNorm : UNREACHABLE_NORM);
      for (const { value, gradient, m, v } of updated) {
        ops.adamw(value, gradient, m, v, options, clipNorm > 0 ? clip : undefined);
      }
      await states.finishUpdate();
      return clip;
    },

    free(): void {
      for (const { m, v } of updated) [m, v].forEach((tensor) => tensor.free());
    },
  };
}
