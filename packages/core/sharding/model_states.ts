/**
 * Weights and gradients of a model, and which part of them, and of the optimizer's states, a rank keeps.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { PARTIAL_SUMS } from "../backend/ops.ts";
import type { Parameter, ParameterGroup } from "../layer/parameter.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import type { NamedShape } from "../strategy/tensor_parallel.ts";
import { PRECISIONS } from "../tensor/precision.ts";
import { type DType, elementCount, type Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Segment } from "../transport/collectives.ts";
import {
  checkUpdateInBackward,
  dividedStates,
  ownSegment,
  type StateSettings,
  wholeSegment,
} from "./divided_states.ts";
import { createShardedGradients, createWholeGradients, type GradientStore } from "./gradient_store.ts";
import type { StoredTensor } from "./stored_tensor.ts";
import { createTransientGradients } from "./transient_gradients.ts";
import { type PartRuns, segmentRuns } from "./weight_part.ts";
import { createShardedWeights, createWholeWeights, type Initialize, type WeightStore } from "./weight_store.ts";

/** Options of {@linkcode ModelStates.create}. */
export interface CreateParameterOptions {
  /** Writes initial values. */
  readonly initialize: Initialize;
  /** Whether it is not trained, and so gets no gradient. */
  readonly frozen?: boolean;
  /** Element type of the weight, f32 by default. Gradients are f32. */
  readonly dtype?: DType;
}

/** The elements of a parameter that this rank updates. */
export interface OwnElements {
  /** Name of the parameter. */
  readonly name: string;
  /** Number of the parameter, in the order of creation. */
  readonly stream: number;
  /** Index of the first of them within the whole weight; where a rank holds columns of it, within the rank's part. */
  readonly start: number;
  /** Of the weight, flat. */
  readonly value: Tensor;
  /** Of its gradient, flat; where updates run in backward, there only while one does. */
  readonly gradient: Tensor;
  /** Whether this rank counts them in the global norm: of elements that several ranks update, one does. */
  readonly inNorm: boolean;
}

/** The model states (Rajbhandari et al. 2020, section 3.1) of one rank, except for the optimizer's, which follow them. */
export interface ModelStates {
  /** Elements of a weight that this rank keeps. */
  kept(weight: NamedShape): PartRuns;
  /** Elements of a weight that a rank updates; several ranks may update the same, to the bit. */
  updated(weight: NamedShape, rank: number): PartRuns;
  /** Adds a parameter, with a gradient of zeros. */
  create(name: string, shape: Shape, options: CreateParameterOptions): Parameter;
  /** Parameters of these states that a part of the model computes with. */
  group(parameters: readonly Parameter[]): ParameterGroup;
  /** What this rank updates, of every trained parameter of which it has elements. */
  own(): readonly OwnElements[];
  /**
   * Where gradients are freed as soon as they are complete and summed, `update` gets the names of their parameters right
   * before, until {@linkcode ModelStates.finishUpdate}; elsewhere it is never called.
   */
  beginUpdate(update: (names: ReadonlySet<string>) => Promise<void>): void;
  /** Sums gradients over ranks, at least the own elements, if there are any left; once before the end of each update. */
  reduceGradients(): Promise<void>;
  /** Turns partial sums of squares [PARTIAL_SUMS] of the own elements into ones of all elements. */
  sumSquares(partials: Tensor): Promise<void>;
  /** Ends an update of the own elements: gradients start from zero, and all ranks get to know the weights. */
  finishUpdate(): Promise<void>;
  /** Every gradient whole, summed over ranks, by name; gradients start from zero afterwards. */
  takeGradients(): Promise<Map<string, Float32Array>>;
  /** Frees weights and gradients. */
  free(): void;
}

/** Every rank for itself: all states whole, and nothing to exchange. */
export function createWholeStates(backend: Backend): ModelStates {
  const done = () => Promise.resolve();
  return composeStates(
    createWholeWeights(backend, { own: wholeSegment, publish: done }),
    createWholeGradients(backend, { own: wholeSegment, reduce: done, reduceAll: done }),
    { updated: wholeSegment, sumSquares: done },
  );
}

/**
 * The states that `shard` divides in segments, the others whole. With one rank there is nothing to divide.
 *
 * @throws {UnsupportedTopologyError} when the update is to run in backward where states are divided
 */
export function createModelStates(
  backend: Backend,
  strategy: SequenceStrategy,
  settings: StateSettings,
): ModelStates {
  checkUpdateInBackward(strategy, settings);
  if (settings.optimizerInBackward) return createStatesUpdatedInBackward(backend, strategy, settings);
  const { shard, precision = "f32" } = settings;
  const divided = dividedStates(strategy, shard);
  const own = (size: number) => ownSegment(size, strategy, divided.moments);
  const { activations } = PRECISIONS[precision];
  const reduceAll = (gradients: readonly Tensor[]) => strategy.reduceGradients(gradients, activations);
  const wholeWeights = {
    own,
    publish: (weights: readonly Tensor[]) => divided.moments ? strategy.gatherWeights(weights) : Promise.resolve(),
  };
  const wholeGradients = {
    own,
    reduceAll,
    reduce: (gradients: readonly Tensor[]) =>
      divided.moments ? strategy.reduceScatterGradients(gradients) : reduceAll(gradients),
  };

  const sumSquares = (partials: Tensor) =>
    divided.moments ? sumSquaresOverRanks(backend, strategy, partials) : Promise.resolve();

  const weights = divided.weights ? createShardedWeights(backend, strategy) : createWholeWeights(backend, wholeWeights);
  const gradients = divided.gradients
    ? createShardedGradients(backend, strategy)
    : createWholeGradients(backend, wholeGradients);
  const updated = (size: number, rank: number) => ownSegment(size, { rank, ranks: strategy.ranks }, divided.moments);
  return composeStates(weights, gradients, { own, updated, sumSquares });
}

/** All states whole on every rank but for gradients, which are used up by the update in backward. */
function createStatesUpdatedInBackward(
  backend: Backend,
  strategy: SequenceStrategy,
  { precision = "f32" }: StateSettings,
): ModelStates {
  const done = () => Promise.resolve();
  const { activations } = PRECISIONS[precision];
  let update: ((gradients: readonly StoredTensor[]) => Promise<void>) | undefined;
  const gradients = createTransientGradients(backend, {
    use: async (complete) => {
      await update?.(complete);
      return update !== undefined;
    },
    beginReduction: strategy.ranks === 1 ? undefined : (wholes) => strategy.beginReduction(wholes, activations),
  });
  return composeStates(createWholeWeights(backend, { own: wholeSegment, publish: done }), gradients, {
    updated: wholeSegment,
    sumSquares: done,
    onComplete: (use) => update = use,
  });
}

/** Turns partial sums of squares [PARTIAL_SUMS] into ones over all ranks. */
export async function sumSquaresOverRanks(
  backend: Backend,
  strategy: SequenceStrategy,
  partials: Tensor,
): Promise<void> {
  const own = (await backend.read(partials)).reduce((total, partial) => total + partial, 0);
  const [squares] = await strategy.sumOverRanks([own]);
  const sums = new Float32Array(PARTIAL_SUMS);
  sums[0] = squares;
  backend.write(partials, sums);
}

/** A parameter with where its weight and gradient are kept. */
class StoredParameter implements Parameter {
  constructor(
    readonly name: string,
    readonly stream: number,
    readonly size: number,
    readonly weight: StoredTensor,
    readonly gradients?: StoredTensor,
  ) {}

  get value(): Tensor {
    return this.weight.whole;
  }

  get gradient(): Tensor | undefined {
    return this.gradients?.whole;
  }
}

function composeStates(
  weights: WeightStore<StoredTensor>,
  gradients: GradientStore<StoredTensor>,
  { own = wholeSegment, updated, sumSquares, onComplete = () => {} }: {
    readonly own?: (size: number) => Segment;
    readonly updated: (size: number, rank: number) => Segment;
    readonly sumSquares: (partials: Tensor) => Promise<void>;
    /** Sets what complete gradients go to before they are freed. */
    readonly onComplete?: (use?: (gradients: readonly StoredTensor[]) => Promise<void>) => void;
  },
): ModelStates {
  const stored = new Map<Parameter, StoredParameter>();
  const trained = () =>
    [...stored.values()].flatMap(({ gradients, ...parameter }) => gradients ? [{ ...parameter, gradients }] : []);

  return {
    kept({ shape }: NamedShape): PartRuns {
      const size = elementCount(shape);
      return segmentRuns(size, weights.kept(size));
    },

    updated({ shape }: NamedShape, rank: number): PartRuns {
      const size = elementCount(shape);
      return segmentRuns(size, updated(size, rank));
    },

    create(name: string, shape: Shape, options: CreateParameterOptions): Parameter {
      const { initialize, frozen = false, dtype = "f32" } = options;
      const weight = weights.create(name, shape, initialize, dtype);
      const parameter = new StoredParameter(
        name,
        stored.size,
        elementCount(shape),
        weight,
        frozen ? undefined : gradients.create(name, shape),
      );
      stored.set(parameter, parameter);
      return parameter;
    },

    group(parameters: readonly Parameter[]): ParameterGroup {
      const members = parameters.map((parameter) => stored.get(parameter)!);
      return {
        ...weights.group(members.map(({ weight }) => weight)),
        ...gradients.group(members.flatMap(({ gradients }) => gradients ?? [])),
      };
    },

    own: () =>
      trained()
        .map(({ name, stream, size, weight, gradients }) => ({
          name,
          stream,
          start: own(size).start,
          value: weight.own,
          get gradient() {
            return gradients.own;
          },
          inNorm: true,
        }))
        .filter(({ value }) => value.size > 0),

    beginUpdate(update: (names: ReadonlySet<string>) => Promise<void>): void {
      const names = new Map(trained().map(({ name, gradients }) => [gradients as StoredTensor, name]));
      onComplete((complete) => update(new Set(complete.map((gradient) => names.get(gradient)!))));
    },

    reduceGradients: () => gradients.reduce(),
    sumSquares,

    async finishUpdate(): Promise<void> {
      onComplete(undefined);
      gradients.clear();
      await weights.publish();
    },

    async takeGradients(): Promise<Map<string, Float32Array>> {
      const wholes = await gradients.readWhole();
      gradients.clear();
      return new Map(trained().map(({ name }, i) => [name, wholes[i]]));
    },

    free(): void {
      weights.free();
      gradients.free();
    },
  };
}
