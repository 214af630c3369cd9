/**
 * Where the weights of a model are: on every rank whole, or in segments that are gathered for as long as they are used.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { ParameterGroup } from "../layer/parameter.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import { type DType, elementCount, type Shape } from "../tensor/shape.ts";
import { Scope } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { pairedSegment, type Segment } from "../transport/collectives.ts";
import { release } from "../transport/release.ts";
import { concatenate, packedSegments, totalLength } from "./segments.ts";
import { type PartRuns, partRuns, segmentRuns } from "./weight_part.ts";
import { ShardedTensor, type StoredTensor, wholeTensor } from "./stored_tensor.ts";

/** Writes initial values of a part of a weight to a tensor of as many elements. */
export type Initialize = (target: Tensor, part: PartRuns) => void;

/** Keeps weights. */
export interface WeightStore<W extends StoredTensor> {
  /** Elements of a weight of `size` elements that stay on this rank. */
  kept(size: number): Segment;
  /** Adds a weight. */
  create(name: string, shape: Shape, initialize: Initialize, dtype: DType): W;
  /** Weights that are used together. */
  group(weights: readonly W[]): Pick<ParameterGroup, "prefetch" | "withWeights">;
  /** Makes known to all ranks what a step made of their own elements. */
  publish(): Promise<void>;
  /** Frees the weights. */
  free(): void;
}

/** Options of {@linkcode createWholeWeights}. */
export interface WholeWeightsOptions {
  /** Elements of a weight of that size that this rank updates. */
  readonly own: (size: number) => Segment;
  /** Gives every rank the elements that others updated. */
  readonly publish: (weights: readonly Tensor[]) => Promise<void>;
}

/** Every rank keeps all weights. */
export function createWholeWeights(
  backend: Backend,
  { own, publish }: WholeWeightsOptions,
): WeightStore<StoredTensor> {
  const all: ReturnType<typeof wholeTensor>[] = [];

  return {
    kept: (size) => ({ start: 0, end: size }),
    create(_name: string, shape: Shape, initialize: Initialize, dtype: DType): StoredTensor {
      const whole = backend.empty(shape, "weights", dtype);
      initialize(whole, partRuns(shape));
      const { start, end } = own(whole.size);
      const weight = wholeTensor(whole, whole.elements(start, end));
      all.push(weight);
      return weight;
    },
    group: () => ({ prefetch: () => {}, withWeights: (compute) => compute() }),
    publish: () => publish(all.map(({ whole }) => whole)),
    free: () => all.forEach((weight) => weight.free()),
  };
}

/**
 * Every rank keeps its segment of each weight (ZeRO stage 3, Rajbhandari et al. 2020, section 5.3), on the device for the
 * update and on the host for the others: a gather then never waits for the device, and what arrives stays on the host
 * until it is used, so that no more than one group of weights is whole on the device.
 */
export function createShardedWeights(backend: Backend, strategy: SequenceStrategy): WeightStore<ShardedTensor> {
  const { rank, ranks, memory } = strategy;
  const all: ShardedTensor[] = [];
  let onHost: ReadonlyMap<ShardedTensor, Float32Array> | undefined;

  function kept(size: number): Segment {
    return pairedSegment(size, ranks, rank);
  }

  /** Reads this rank's segments from the device, as they lie there. */
  async function refresh(): Promise<void> {
    const earlier = onHost; // memory that is used again
    using scope = new Scope();
    const words = all.map(({ own }) => scope.own(own.words()));
    const values = await backend.readAll(words, earlier && all.map((each) => earlier.get(each)!));
    onHost = new Map(all.map((weight, i) => [weight, values[i]]));
  }

  function group(weights: readonly ShardedTensor[]): Pick<ParameterGroup, "prefetch" | "withWeights"> {
    const shapes = weights.map(({ shape }) => shape);
    const dtypes = weights.map(({ own }) => own.dtype);
    let arriving: Promise<Float32Array[]> | undefined;

    /** Calls at once, so that ranks make their calls in the same order. */
    function prefetch(): void {
      if (arriving || !onHost) return;
      const values = onHost;
      const own = weights.map((weight) => values.get(weight)!);
      const sent = concatenate(own, memory.floats(totalLength(own)));
      arriving = strategy.allGather(sent).finally(() => memory.give(sent));
      arriving.catch(() => {}); // reported where it is awaited
    }

    async function fetch(): Promise<readonly Float32Array[]> {
      if (!onHost) await refresh(); // initial values
      prefetch();
      const parts = await arriving!;
      arriving = undefined;
      return parts;
    }

    /** Puts the segments of all ranks on the device and frees them on the host. */
    function open(parts: readonly Float32Array[]): void {
      for (const weight of weights) weight.open(backend.empty(weight.shape, "weights", weight.own.dtype));
      for (const [owner, part] of parts.entries()) {
        for (const { index, start, end, at, words } of packedSegments(shapes, ranks, owner, dtypes)) {
          if (start === end) continue;
          using target = weights[index].whole.elements(start, end);
          using targetWords = target.words();
          backend.write(targetWords, part.subarray(at, at + words));
        }
        release(part);
      }
    }

    async function withWeights<T>(compute: () => Promise<T>, next?: ParameterGroup): Promise<T> {
      const parts = await fetch();
      try {
        open(parts);
        next?.prefetch();
        const result = await compute();
        backend.flush(); // the device computes while the next weights are put on it
        return result;
      } finally {
        for (const weight of weights) weight.close();
      }
    }

    return { prefetch, withWeights };
  }

  return {
    kept,
    create(name: string, shape: Shape, initialize: Initialize, dtype: DType): ShardedTensor {
      const { start, end } = kept(elementCount(shape));
      const own = backend.empty([end - start], "weights", dtype);
      if (end > start) initialize(own, segmentRuns(elementCount(shape), { start, end }));
      const weight = new ShardedTensor(name, shape, own);
      all.push(weight);
      return weight;
    },
    group,
    publish: refresh,
    free: () => all.forEach((weight) => weight.free()),
  };
}
