/**
 * Model states of a strategy whose ranks hold parts of the weights (tensor parallelism).
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import type { ShardStage } from "../config/train_config.ts";
import type { Parameter, ParameterGroup } from "../layer/parameter.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import type { NamedShape, Placement, TensorParallel } from "../strategy/tensor_parallel.ts";
import { UnsupportedTopologyError } from "../strategy/unsupported.ts";
import { elementCount, type Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { checkUpdateInBackward, type StateSettings } from "./divided_states.ts";
import {
  type CreateParameterOptions,
  type ModelStates,
  type OwnElements,
  sumSquaresOverRanks,
} from "./model_states.ts";
import { partRuns, partShape, putPart } from "./weight_part.ts";

/** A parameter of which this rank holds a part. */
interface SplitParameter extends Parameter {
  /** Dims of the whole weight. */
  readonly shape: Shape;
  readonly placement: Placement;
  /** Flat handles for the update. */
  readonly own: Omit<OwnElements, "name" | "inNorm">;
}

/**
 * Refuses to divide states of a strategy whose ranks hold parts of the weights.
 *
 * @throws {UnsupportedTopologyError} when `shard` says so
 */
export function checkShard({ name }: Pick<SequenceStrategy, "name">, shard: ShardStage): void {
  if (shard === "none") return;
  throw new UnsupportedTopologyError(
    `Cannot shard ${shard} under ${name}: its ranks hold parts of weights, gradients and moments already, wanted none`,
  );
}

/** Nothing is ever gathered: layers compute with parts. */
const PART_GROUP: ParameterGroup = {
  prefetch: () => {},
  withWeights: (compute) => compute(),
  withGradients: (compute) => compute(),
};

/**
 * Weights, gradients and moments in the parts that `split` names, on every rank that holds the same part.
 *
 * @throws {UnsupportedTopologyError} when `shard` divides states, too, or the update is to run in backward
 */
export function createSplitStates(
  backend: Backend,
  strategy: SequenceStrategy,
  split: TensorParallel,
  { shard, optimizerInBackward = false }: StateSettings,
): ModelStates {
  checkShard(strategy, shard);
  checkUpdateInBackward({ ...strategy, splitsWeights: true }, { shard, optimizerInBackward });
  const { rank } = strategy;
  const all: SplitParameter[] = [];
  const trained = () =>
    all.flatMap((parameter) => parameter.gradient ? [{ ...parameter, gradient: parameter.gradient }] : []);

  /** Sums each gradient over the ranks that hold the same part, in groups in the same order on all of them. */
  async function reduceGradients(): Promise<void> {
    const groups = Map.groupBy(trained(), ({ placement }) => placement.sharers.join());
    const sharersOf = ([{ placement }]: readonly SplitParameter[]) => placement.sharers;
    for (const members of [...groups.values()].toSorted((a, b) => sharersOf(b).length - sharersOf(a).length)) {
      const sharers = sharersOf(members);
      if (sharers.length > 1) await split.sumOver(sharers, members.map(({ gradient }) => gradient));
    }
  }

  /** A gradient from the parts of all ranks. */
  async function assemble(weight: NamedShape, values: Float32Array, { part }: Placement): Promise<Float32Array> {
    if (!part) return values;
    const whole = new Float32Array(elementCount(weight.shape));
    for (const [owner, other] of (await strategy.allGather(values)).entries()) {
      putPart(other, whole, partRuns(weight.shape, split.placement(weight, owner).part));
    }
    return whole;
  }

  function clearGradients(): void {
    for (const { gradient } of trained()) backend.ops.fill(gradient, 0);
  }

  return {
    kept: (weight) => partRuns(weight.shape, split.placement(weight).part),
    updated: (weight, of) => partRuns(weight.shape, split.placement(weight, of).part),

    create(name: string, shape: Shape, options: CreateParameterOptions): Parameter {
      const { initialize, frozen = false, dtype = "f32" } = options;
      const placement = split.placement({ name, shape });
      const value = backend.empty(partShape(shape, placement.part), "weights", dtype);
      initialize(value, partRuns(shape, placement.part));
      const gradient = frozen ? undefined : zeros(backend, value.shape, "gradients");
      const flat = (tensor: Tensor) => tensor.elements(0, tensor.size);
      const { start } = partRuns(shape, placement.part);
      const own = { stream: all.length, start, value: flat(value), gradient: flat(gradient ?? value) };
      const parameter = { name, shape, value, gradient, placement, own };
      all.push(parameter);
      return parameter;
    },

    group: () => PART_GROUP,
    own: () => trained().map(({ name, own, placement }) => ({ name, ...own, inNorm: placement.sharers[0] === rank })),
    beginUpdate: () => {},
    reduceGradients,
    sumSquares: (partials) => sumSquaresOverRanks(backend, strategy, partials),

    finishUpdate(): Promise<void> {
      clearGradients();
      return Promise.resolve();
    },

    async takeGradients(): Promise<Map<string, Float32Array>> {
      await reduceGradients();
      const gradients = trained();
      const values = await backend.readAll(gradients.map(({ gradient }) => gradient));
      clearGradients();
      const wholes = new Map<string, Float32Array>();
      for (const [i, { name, shape, placement }] of gradients.entries()) {
        wholes.set(name, await assemble({ name, shape }, values[i], placement));
      }
      return wholes;
    },

    free(): void {
      for (const { value, gradient, own } of all) {
        [value, own.value, own.gradient].forEach((tensor) => tensor.free());
        gradient?.free();
      }
    },
  };
}
