/**
 * Where the gradients of a model are: on every rank whole, or in segments to which each group's are reduced when its
 * backward is done.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import { nextTurn } from "../backend/next_turn.ts";
import type { ParameterGroup } from "../layer/parameter.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import { elementCount, type Shape } from "../tensor/shape.ts";
import { Scope } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { addFloats, pairedSegment, type Segment } from "../transport/collectives.ts";
import { concatenate, packedSegments, totalLength } from "./segments.ts";
import { ShardedTensor, type StoredTensor, wholeTensor } from "./stored_tensor.ts";

/** Keeps gradients, which add up over the micro-batches of a step. */
export interface GradientStore<G extends StoredTensor> {
  /** Adds a gradient of zeros. */
  create(name: string, shape: Shape): G;
  /** Gradients that are computed together. */
  group(gradients: readonly G[]): Pick<ParameterGroup, "withGradients">;
  /** Puts the sums over ranks of the elements that this rank updates where its update reads them. */
  reduce(): Promise<void>;
  /** All gradients summed over ranks, on the host, in the order in which they were created. */
  readWhole(): Promise<Float32Array[]>;
  /** Starts sums anew. */
  clear(): void;
  /** Frees the gradients. */
  free(): void;
}

/** Options of {@linkcode createWholeGradients}. */
export interface WholeGradientsOptions {
  /** Elements of a gradient of that size that this rank's update reads. */
  readonly own: (size: number) => Segment;
  /** Sums these elements over ranks. */
  readonly reduce: (gradients: readonly Tensor[]) => Promise<void>;
  /** Sums all elements over ranks. */
  readonly reduceAll: (gradients: readonly Tensor[]) => Promise<void>;
}

/** Every rank keeps all gradients; they are reduced once a step. */
export function createWholeGradients(
  backend: Backend,
  { own, reduce, reduceAll }: WholeGradientsOptions,
): GradientStore<StoredTensor> {
  const all: ReturnType<typeof wholeTensor>[] = [];
  const wholes = () => all.map(({ whole }) => whole);

  return {
    create(_name: string, shape: Shape): StoredTensor {
      const whole = zeros(backend, shape, "gradients");
      const { start, end } = own(whole.size);
      const gradient = wholeTensor(whole, whole.elements(start, end));
      all.push(gradient);
      return gradient;
    },
    group: () => ({ withGradients: (compute) => compute() }),
    reduce: () => reduce(wholes()),
    async readWhole(): Promise<Float32Array[]> {
      await reduceAll(wholes());
      return await backend.readAll(wholes());
    },
    clear: () => wholes().forEach((whole) => backend.ops.fill(whole, 0)),
    free: () => all.forEach((gradient) => gradient.free()),
  };
}

/**
 * Every rank keeps its segment of each gradient (ZeRO stage 2, Rajbhandari et al. 2020, section 5.2). Whole gradients of
 * a group live during its backward; then they are read and freed, and reduced while backward goes on. Sums over
 * micro-batches add up on the host, where the sums over ranks are made, and are put on the device once a step.
 */
export function createShardedGradients(backend: Backend, strategy: SequenceStrategy): GradientStore<ShardedTensor> {
  const { rank, ranks, memory } = strategy;
  const all: ShardedTensor[] = [];
  const sums = new Map<ShardedTensor, Float32Array>(); // kept, since fresh memory costs more than the sum
  const summed = new Set<ShardedTensor>();
  let reducing: Promise<void> = Promise.resolve();

  /** Copies whole gradients as they are; then gives, for each rank, its segments of them, and their memory. */
  function takeByRank(gradients: readonly ShardedTensor[]) {
    const shapes = gradients.map(({ shape }) => shape);
    const all = memory.floats(shapes.reduce((sum, shape) => sum + elementCount(shape), 0));
    const parts: Float32Array[] = [];
    const into: Float32Array[] = [];
    using scope = new Scope();
    const segments: Tensor[] = [];
    for (let owner = 0, from = 0; owner < ranks; owner++) {
      const first = from;
      for (const { index, start, end } of packedSegments(shapes, ranks, owner)) {
        segments.push(scope.own(gradients[index].whole.elements(start, end)));
        into.push(all.subarray(from, from += end - start));
      }
      parts.push(all.subarray(first, from));
    }
    return { take: backend.readLater(segments, into), parts, all };
  }

  /**
   * Adds this rank's segments of the sum over ranks. The device is waited for only once what follows has been handed to it,
   * so that it has something to do when it is done.
   */
  async function reduceGroup(gradients: readonly ShardedTensor[]): Promise<void> {
    const { take, parts, all } = takeByRank(gradients);
    await strategy.reduceScatter(nextTurn().then(take).then(() => parts));
    for (const { index, start, end, at } of packedSegments(gradients.map(({ shape }) => shape), ranks, rank)) {
      const sum = parts[rank].subarray(at, at + end - start);
      const total = sums.get(gradients[index])!;
      if (summed.has(gradients[index])) addFloats(total, sum, total);
      else total.set(sum);
      summed.add(gradients[index]);
    }
    memory.give(all);
  }

  async function withGradients<T>(gradients: readonly ShardedTensor[], compute: () => Promise<T>): Promise<T> {
    const earlier = reducing;
    try {
      for (const gradient of gradients) gradient.open(zeros(backend, gradient.shape, "gradients"));
      const result = await compute();
      reducing = reduceGroup(gradients);
      reducing.catch(() => {}); // reported where it is awaited
      return result;
    } finally {
      for (const gradient of gradients) gradient.close();
      await earlier; // so that no more than two groups are on the host
    }
  }

  /** Sums of this rank's segments in the order of creation, zeros where nothing was added. */
  async function ownSums(): Promise<Float32Array[]> {
    await reducing;
    for (const gradient of all) if (!summed.has(gradient)) sums.get(gradient)!.fill(0);
    return all.map((gradient) => sums.get(gradient)!);
  }

  return {
    create(name: string, shape: Shape): ShardedTensor {
      const { start, end } = pairedSegment(elementCount(shape), ranks, rank);
      const gradient = new ShardedTensor(name, shape, backend.empty([end - start], "gradients"));
      all.push(gradient);
      sums.set(gradient, new Float32Array(end - start));
      return gradient;
    },
    group: (gradients) => ({ withGradients: (compute) => withGradients(gradients, compute) }),
    async reduce(): Promise<void> {
      for (const [i, sum] of (await ownSums()).entries()) {
        if (sum.length > 0) backend.write(all[i].own, sum);
      }
    },
    async readWhole(): Promise<Float32Array[]> {
      const shapes = all.map(({ shape }) => shape);
      const own = await ownSums();
      const parts = await strategy.allGather(concatenate(own, new Float32Array(totalLength(own))));
      const wholes = shapes.map((shape) => new Float32Array(elementCount(shape)));
      for (const [owner, part] of parts.entries()) {
        for (const { index, start, end, at } of packedSegments(shapes, ranks, owner)) {
          wholes[index].set(part.subarray(at, at + end - start), start);
        }
      }
      return wholes;
    },
    clear: () => summed.clear(),
    free: () => all.forEach((gradient) => gradient.free()),
  };
}
