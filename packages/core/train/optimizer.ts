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
export interface UpdatedElements extends Pick<OwnElements, "name" | "value"> {
  /** The elements with their gradient. */
  readonly own: OwnElements;
  /** First moment, flat. */
  readonly m: Tensor;
  /** Second moment, flat. */
  readonly v: Tensor;
}

/** First and second moments of the elements that this rank updates. */
export interface Optimizer {
  /** What is updated; the tensors stay the optimizer's. */
  readonly updated: readonly UpdatedElements[];
  /** Starts a step, before its forward: an update in backward needs to know its options there. */
  begin(options: AdamWOptions): void;
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
  const updated = withMoments(backend, states);

  return {
    updated,
    begin: () => {},

    async step(options: AdamWOptions, clipNorm: number): Promise<Tensor> {
      const clip = backend.empty([2], "scratch");
      using partials = zeros(backend, [PARTIAL_SUMS], "scratch");
      for (const { own } of updated) {
        if (own.inNorm) ops.sumSquares(own.gradient, partials);
      }
      await states.sumSquares(partials);
      ops.clipFactor(partials, clip, clipNorm > 0 ? clipNorm : UNREACHABLE_NORM);
      for (const { own, m, v } of updated) {
        ops.adamw(own.value, own.gradient, m, v, options, clipNorm > 0 ? clip : undefined);
      }
      await states.finishUpdate();
      return clip;
    },

    free: () => freeMoments(updated),
  };
}

/**
 * AdamW that updates the weights of a group as soon as its backward is done, and leaves the global norm to be known after
 * all of them ({@linkcode ModelStates.beginUpdate}).
 */
export function createAdamWInBackward(backend: Backend, states: ModelStates): Optimizer {
  const { ops } = backend;
  const updated = withMoments(backend, states);
  let partials: Tensor | undefined; // of the step under way

  function discard(): void {
    partials?.free();
    partials = undefined;
  }

  return {
    updated,

    begin(options: AdamWOptions): void {
      discard();
      const squares = partials = zeros(backend, [PARTIAL_SUMS], "scratch");
      states.beginUpdate((names) => {
        for (const { own, m, v } of updated.filter(({ name }) => names.has(name))) {
          ops.sumSquares(own.gradient, squares);
          ops.adamw(own.value, own.gradient, m, v, options);
        }
      });
    },

    async step(): Promise<Tensor> {
      if (!partials) throw new ReferenceError("Cannot end an update in backward: none has begun");
      const clip = backend.empty([2], "scratch");
      ops.clipFactor(partials, clip, UNREACHABLE_NORM);
      discard();
      await states.finishUpdate();
      return clip;
    },

    free(): void {
      discard();
      freeMoments(updated);
    },
  };
}

function withMoments(backend: Backend, states: ModelStates): UpdatedElements[] {
  return states.own().map((own) => ({
    name: own.name,
    own,
    value: own.value,
    m: zeros(backend, own.value.shape, "optimizer"),
    v: zeros(backend, own.value.shape, "optimizer"),
  }));
}

function freeMoments(updated: readonly UpdatedElements[]): void {
  for (const { m, v } of updated) [m, v].forEach((tensor) => tensor.free());
}
