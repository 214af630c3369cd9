/**
 * AdamW over all parameters with clipping by the global gradient norm.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import { type AdamWOptions, PARTIAL_SUMS } from "../backend/ops.ts";
import type { ModelStates, OwnElements } from "../sharding/model_states.ts";
import { createDeviceMoments, type Moments } from "./moments.ts";
import { Scope } from "../tensor/scope.ts";
import type { DType } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Stands for no clipping where the norm is still wanted: finite, since WGSL leaves infinities undefined. */
const UNREACHABLE_NORM = 3e38;

/** Pieces of moments that may be on their way back to the host during an update after backward, and during one in it. */
const PIECES_UNDER_WAY = { after: 1, during: 32 };

/** How AdamW keeps and rounds its numbers. */
export interface OptimizerSettings {
  /** Element type of the moments. Default f32. */
  readonly moments?: DType;
  /** Seed of the run, from which rounding to 16 bits draws. Default 0. */
  readonly seed?: number;
  /**
   * Whether an update whose gradients are not finite leaves everything as it is, and its norm says so: of all parameters
   * together, or of each group that is updated in backward. Default false.
   */
  readonly skipsNonFinite?: boolean;
  /** Where the moments are. Default: on the device. */
  readonly createMoments?: typeof createDeviceMoments;
}

/** First and second moments of the elements that this rank updates. */
export interface Optimizer {
  /** What is updated; the tensors stay the optimizer's. */
  readonly updated: readonly OwnElements[];
  /** Their moments. */
  readonly moments: Moments;
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

/** AdamW after backward, with clipping by the global norm. */
export function createAdamW(backend: Backend, states: ModelStates, settings: OptimizerSettings = {}): Optimizer {
  const { ops } = backend;
  const { updated, moments, update } = withMoments(backend, states, settings);

  return {
    updated,
    moments,
    begin: () => {},

    async step(options: AdamWOptions, clipNorm: number): Promise<Tensor> {
      const clip = backend.empty([2], "scratch");
      using partials = zeros(backend, [PARTIAL_SUMS], "scratch");
      for (const { gradient, inNorm } of updated) {
        if (inNorm) ops.sumSquares(gradient, partials);
      }
      await states.sumSquares(partials);
      ops.clipFactor(partials, clip, clipNorm > 0 ? clipNorm : UNREACHABLE_NORM, options);
      const factor = clipNorm > 0 || settings.skipsNonFinite ? clip : undefined;
      for (const own of updated) await update(own, options, factor, PIECES_UNDER_WAY.after);
      await states.finishUpdate();
      await moments.settle(0);
      return clip;
    },

    free: () => moments.free(),
  };
}

/**
 * AdamW that updates the weights of a group as soon as its backward is done, and leaves the global norm to be known after
 * all of them ({@linkcode ModelStates.beginUpdate}).
 */
export function createAdamWInBackward(
  backend: Backend,
  states: ModelStates,
  settings: OptimizerSettings = {},
): Optimizer {
  const { ops } = backend;
  const { updated, moments, update } = withMoments(backend, states, settings);
  let scope: Scope | undefined; // what the step under way holds
  let partials: Tensor | undefined; // of all groups

  function discard(): void {
    scope?.[Symbol.dispose]();
    scope = partials = undefined;
  }

  /** Updates a group, and adds its squares to those of all. */
  async function updateGuarded(
    group: readonly OwnElements[],
    options: AdamWOptions,
    squares: Tensor,
    clip: Tensor,
  ): Promise<void> {
    ops.fill(squares, 0);
    for (const { gradient } of group) ops.sumSquares(gradient, squares);
    ops.clipFactor(squares, clip, UNREACHABLE_NORM, options);
    for (const own of group) await update(own, options, clip, PIECES_UNDER_WAY.during);
    ops.add(squares, partials!);
  }

  return {
    updated,
    moments,

    begin(options: AdamWOptions): void {
      discard();
      const held = scope = new Scope();
      const squares = partials = held.own(zeros(backend, [PARTIAL_SUMS], "scratch"));
      const guard = settings.skipsNonFinite
        ? [PARTIAL_SUMS, 2].map((size) => held.own(backend.empty([size], "scratch")))
        : undefined;
      states.beginUpdate(async (names) => {
        await moments.settle(0); // of the group before, which the device has been through
        const group = updated.filter(({ name }) => names.has(name));
        if (guard) return await updateGuarded(group, options, guard[0], guard[1]);
        for (const own of group) {
          ops.sumSquares(own.gradient, squares);
          await update(own, options, undefined, PIECES_UNDER_WAY.during);
        }
      });
    },

    async step(options: AdamWOptions): Promise<Tensor> {
      if (!partials) throw new ReferenceError("Cannot end an update in backward: none has begun");
      const clip = backend.empty([2], "scratch");
      ops.clipFactor(partials, clip, UNREACHABLE_NORM, options);
      discard();
      await states.finishUpdate();
      await moments.settle(0);
      return clip;
    },

    free(): void {
      discard();
      moments.free();
    },
  };
}

/** What is updated, its moments, and the update of some of it. */
function withMoments(
  backend: Backend,
  states: ModelStates,
  { moments: dtype = "f32", seed = 0, createMoments = createDeviceMoments }: OptimizerSettings,
) {
  const updated = states.own();
  const moments = createMoments(backend, updated, dtype);

  /** Leaves no more pieces on their way back than `underWay`. */
  async function update(
    own: OwnElements,
    options: AdamWOptions,
    clip: Tensor | undefined,
    underWay: number,
  ): Promise<void> {
    for (const piece of moments.pieces(own)) {
      const rounding = { seed, stream: own.stream, start: own.start + piece.start };
      moments.update(own, piece, ({ value, gradient, m, v }) => {
        backend.ops.adamw(value, gradient, m, v, { ...options, rounding }, clip);
      });
      await moments.settle(underWay);
    }
  }

  return { updated, moments, update };
}
