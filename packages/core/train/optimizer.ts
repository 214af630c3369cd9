/**
 * AdamW over all parameters with clipping by the global gradient norm.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import { type AdamWOptions, PARTIAL_SUMS } from "../backend/ops.ts";
import type { ModelStates, OwnElements } from "../sharding/model_states.ts";
import { Scope } from "../tensor/scope.ts";
import type { DType } from "../tensor/shape.ts";
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
export function createAdamW(backend: Backend, states: ModelStates, settings: OptimizerSettings = {}): Optimizer {
  const { ops } = backend;
  const { updated, update } = withMoments(backend, states, settings);

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
      ops.clipFactor(partials, clip, clipNorm > 0 ? clipNorm : UNREACHABLE_NORM, options);
      for (const elements of updated) {
        update(elements, options, clipNorm > 0 || settings.skipsNonFinite ? clip : undefined);
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
export function createAdamWInBackward(
  backend: Backend,
  states: ModelStates,
  settings: OptimizerSettings = {},
): Optimizer {
  const { ops } = backend;
  const { updated, update } = withMoments(backend, states, settings);
  let scope: Scope | undefined; // what the step under way holds
  let partials: Tensor | undefined; // of all groups

  function discard(): void {
    scope?.[Symbol.dispose]();
    scope = partials = undefined;
  }

  /** Updates a group, and adds its squares to those of all. */
  function updateGuarded(group: readonly UpdatedElements[], options: AdamWOptions, own: Tensor, clip: Tensor): void {
    ops.fill(own, 0);
    for (const { own: { gradient } } of group) ops.sumSquares(gradient, own);
    ops.clipFactor(own, clip, UNREACHABLE_NORM, options);
    for (const elements of group) update(elements, options, clip);
    ops.add(own, partials!);
  }

  return {
    updated,

    begin(options: AdamWOptions): void {
      discard();
      const held = scope = new Scope();
      const squares = partials = held.own(zeros(backend, [PARTIAL_SUMS], "scratch"));
      const guard = settings.skipsNonFinite
        ? [PARTIAL_SUMS, 2].map((size) => held.own(backend.empty([size], "scratch")))
        : undefined;
      states.beginUpdate((names) => {
        const group = updated.filter(({ name }) => names.has(name));
        if (guard) return updateGuarded(group, options, guard[0], guard[1]);
        for (const elements of group) {
          ops.sumSquares(elements.own.gradient, squares);
          update(elements, options);
        }
      });
    },

    async step(options: AdamWOptions): Promise<Tensor> {
      if (!partials) throw new ReferenceError("Cannot end an update in backward: none has begun");
      const clip = backend.empty([2], "scratch");
      ops.clipFactor(partials, clip, UNREACHABLE_NORM, options);
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

/** What is updated, and the update of some of it. */
function withMoments(
  backend: Backend,
  states: ModelStates,
  { moments = "f32", seed = 0 }: OptimizerSettings,
) {
  const updated: readonly UpdatedElements[] = states.own().map((own) => ({
    name: own.name,
    own,
    value: own.value,
    m: zeros(backend, own.value.shape, "optimizer", moments),
    v: zeros(backend, own.value.shape, "optimizer", moments),
  }));

  function update({ own, m, v }: UpdatedElements, options: AdamWOptions, clip?: Tensor): void {
    const rounding = { seed, stream: own.stream, start: own.start };
    backend.ops.adamw(own.value, own.gradient, m, v, { ...options, rounding }, clip);
  }

  return { updated, update };
}

function freeMoments(updated: readonly UpdatedElements[]): void {
  for (const { m, v } of updated) [m, v].forEach((tensor) => tensor.free());
}
