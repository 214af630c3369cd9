/**
 * Weights and gradients of a model, and which part of them, and of the optimizer's states, a rank keeps.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { PARTIAL_SUMS } from "../backend/ops.ts";
import type { ModelConfig } from "../config/model_config.ts";
import type { ShardStage, TrainConfig } from "../config/train_config.ts";
import type { Parameter, ParameterGroup } from "../layer/parameter.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import type { NamedShape } from "../strategy/tensor_parallel.ts";
import { UnsupportedTopologyError } from "../strategy/unsupported.ts";
import { elementCount, type Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Segment, segmentBounds } from "../transport/collectives.ts";
import { createShardedGradients, createWholeGradients, type GradientStore } from "./gradient_store.ts";
import type { StoredTensor } from "./stored_tensor.ts";
import { createTransientGradients } from "./transient_gradients.ts";
import { type PartRuns, partRuns, segmentRuns } from "./weight_part.ts";
import { createShardedWeights, createWholeWeights, type Initialize, type WeightStore } from "./weight_store.ts";

/** Options of {@linkcode ModelStates.create}. */
export interface CreateParameterOptions {
  /** Writes initial values. */
  readonly initialize: Initialize;
  /** Whether it is not trained, and so gets no gradient. */
  readonly frozen?: boolean;
}

/** The elements of a parameter that this rank updates. */
export interface OwnElements {
  /** Name of the parameter. */
  readonly name: string;
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
   * Where gradients are freed as soon as they are complete, `update` gets the names of their parameters right before, until
   * {@linkcode ModelStates.finishUpdate}; elsewhere it is never called.
   */
  beginUpdate(update: (names: ReadonlySet<string>) => void): void;
  /** Sums gradients over ranks, at least the own elements; once before each update. */
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

/** Where ranks meet for their states. */
type Ranks = Pick<SequenceStrategy, "rank" | "ranks">;

/** Every rank for itself: all states whole, and nothing to exchange. */
export function createWholeStates(backend: Backend): ModelStates {
  const done = () => Promise.resolve();
  return composeStates(
    createWholeWeights(backend, { own: wholeSegment, publish: done }),
    createWholeGradients(backend, { own: wholeSegment, reduce: done, reduceAll: done }),
    { updated: wholeSegment, sumSquares: done },
  );
}

/** What of a model's training says where its states are. */
export type StateSettings = Pick<TrainConfig, "shard"> & Partial<Pick<TrainConfig, "optimizerInBackward">>;

/**
 * Refuses to update in backward where ranks would have to exchange gradients before.
 *
 * @throws {UnsupportedTopologyError} when there are several ranks
 */
export function checkUpdateInBackward(
  { ranks }: Pick<Ranks, "ranks">,
  { optimizerInBackward }: Pick<StateSettings, "optimizerInBackward">,
): void {
  if (!optimizerInBackward || ranks === 1) return;
  throw new UnsupportedTopologyError(
    `Cannot update in backward over ${ranks} ranks: gradients have to be summed over them before, wanted 1 rank`,
  );
}

/**
 * The states that `shard` divides in segments, the others whole. With one rank there is nothing to divide.
 *
 * @throws {UnsupportedTopologyError} when the update is to run in backward over several ranks
 */
export function createModelStates(
  backend: Backend,
  strategy: SequenceStrategy,
  { shard, optimizerInBackward = false }: StateSettings,
): ModelStates {
  checkUpdateInBackward(strategy, { optimizerInBackward });
  if (optimizerInBackward) return createStatesUpdatedInBackward(backend);
  const divided = dividedStates(strategy, shard);
  const own = (size: number) => ownSegment(size, strategy, divided.moments);
  const reduceAll = (gradients: readonly Tensor[]) => strategy.reduceGradients(gradients);
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
  return composeStates(weights, gradients, { updated, sumSquares });
}

/** All states of one rank whole but for gradients, which are used up by the update in backward. */
function createStatesUpdatedInBackward(backend: Backend): ModelStates {
  const done = () => Promise.resolve();
  let update: ((gradients: readonly StoredTensor[]) => void) | undefined;
  const gradients = createTransientGradients(backend, (complete) => {
    update?.(complete);
    return update !== undefined;
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

/** Which states ranks divide among themselves. */
export function dividedStates(
  { ranks }: Pick<Ranks, "ranks">,
  shard: ShardStage,
): { readonly weights: boolean; readonly gradients: boolean; readonly moments: boolean } {
  const isDivided = ranks > 1;
  return {
    weights: isDivided && shard === "weights",
    gradients: isDivided && (shard === "weights" || shard === "gradients"),
    moments: isDivided && shard !== "none",
  };
}

/** Which elements of a weight of a model a rank keeps, and so has to be given. */
export function keptOfWeights(
  model: ModelConfig,
  strategy: Ranks & Pick<SequenceStrategy, "tensorParallel">,
  shard: ShardStage,
): (weight: NamedShape) => PartRuns {
  const split = strategy.tensorParallel?.(model);
  if (split) return (weight) => partRuns(weight.shape, split.placement(weight).part);
  const { weights } = dividedStates(strategy, shard);
  return ({ shape }) => {
    const size = elementCount(shape);
    return segmentRuns(size, ownSegment(size, strategy, weights));
  };
}

/** Elements that a rank keeps of a state of `size` elements. */
export function ownSegment(size: number, { rank, ranks }: Ranks, isDivided: boolean): Segment {
  return isDivided ? segmentBounds(size, ranks, rank) : wholeSegment(size);
}

function wholeSegment(size: number): Segment {
  return { start: 0, end: size };
}

/** A parameter with where its weight and gradient are kept. */
class StoredParameter implements Parameter {
  constructor(readonly name: string, readonly weight: StoredTensor, readonly gradients?: StoredTensor) {}

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
  { updated, sumSquares, onComplete = () => {} }: {
    readonly updated: (size: number, rank: number) => Segment;
    readonly sumSquares: (partials: Tensor) => Promise<void>;
    /** Sets what complete gradients go to before they are freed. */
    readonly onComplete?: (use?: (gradients: readonly StoredTensor[]) => void) => void;
  },
): ModelStates {
  const stored = new Map<Parameter, StoredParameter>();
  const trained = () =>
    [...stored.values()].flatMap(({ name, weight, gradients }) => gradients ? [{ name, weight, gradients }] : []);

  return {
    kept({ shape }: NamedShape): PartRuns {
      const size = elementCount(shape);
      return segmentRuns(size, weights.kept(size));
    },

    updated({ shape }: NamedShape, rank: number): PartRuns {
      const size = elementCount(shape);
      return segmentRuns(size, updated(size, rank));
    },

    create(name: string, shape: Shape, { initialize, frozen = false }: CreateParameterOptions): Parameter {
      const weight = weights.create(name, shape, initialize);
      const parameter = new StoredParameter(name, weight, frozen ? undefined : gradients.create(name, shape));
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
        .map(({ name, weight, gradients }) => ({
          name,
          value: weight.own,
          get gradient() {
            return gradients.own;
          },
          inNorm: true,
        }))
        .filter(({ value }) => value.size > 0),

    beginUpdate(update: (names: ReadonlySet<string>) => void): void {
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
