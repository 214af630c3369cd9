/**
 * Exchange of replicated gradients and weights over ranks, through host memory: while some tensors are on their way, the
 * next are read from the device and earlier ones written back.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { addFloats, bytesOf, floatsOf, pairedSegment } from "../transport/collectives.ts";
import type { ProcessGroup } from "../transport/process_group.ts";
import { release } from "../transport/release.ts";
import { cutIntoLots } from "./lots.ts";
import type { HostMemory } from "../memory/host_memory.ts";

/** Lots that are exchanged while the next is read; what is exchanged at once bounds the memory of the host. */
const LOTS_UNDER_WAY = 2;

/**
 * Replaces every gradient by its sum over the ranks of the group, bitwise the same on all of them.
 */
export async function allReduceGradients(
  backend: Backend,
  group: ProcessGroup,
  gradients: readonly Tensor[],
): Promise<void> {
  if (group.size === 1) return;
  await forEachRead(backend, group.memory, gradients, async (values, i) => {
    await group.allReduce(values);
    backend.write(gradients[i], values);
  });
}

/** Puts this rank's segment of the sum over the ranks into every gradient; the rest of it stays as it is. */
export async function reduceScatterGradients(
  backend: Backend,
  group: ProcessGroup,
  gradients: readonly Tensor[],
): Promise<void> {
  if (group.size === 1) return;
  await forEachRead(backend, group.memory, gradients, async (values, i) => {
    const sum = await group.reduceScatter(values);
    using segment = segmentOf(gradients[i], group, group.rank);
    if (sum.length > 0) backend.write(segment, sum);
    release(sum);
  });
}

/** Gives every rank the segments of all weights that the other ranks of the group hold. */
export async function allGatherWeights(
  backend: Backend,
  group: ProcessGroup,
  weights: readonly Tensor[],
): Promise<void> {
  if (group.size === 1) return;
  const own = weights.map((weight) => segmentWords(weight, group, group.rank));
  try {
    await forEachRead(backend, group.memory, own, async (values, i) => {
      const parts = await group.allGather(bytesOf(values));
      for (const [rank, part] of parts.entries()) {
        using segment = segmentWords(weights[i], group, rank);
        if (rank !== group.rank && part.length > 0) backend.write(segment, floatsOf(part));
        release(part);
      }
    });
  } finally {
    own.forEach((segment) => segment.free());
  }
}

/** Adds to `parts[rank]` what the other ranks have for this one, in rank order; every pair of ranks exchanges directly. */
export async function reduceScatterParts(
  group: ProcessGroup,
  parts: readonly Float32Array[],
  label: string,
): Promise<void> {
  const others = parts.keys().filter((rank) => rank !== group.rank).toArray();
  const [terms] = await Promise.all([
    Promise.all(others.map((rank) => group.recv(rank, label))),
    Promise.all(others.map((rank) => group.send(rank, bytesOf(parts[rank]), label))),
  ]);
  const sum = parts[group.rank];
  for (const term of terms) {
    addFloats(sum, floatsOf(term), sum);
    release(term);
  }
}

/** The values of every rank, in rank order. */
export async function allGatherValues(
  group: ProcessGroup,
  values: Float32Array,
): Promise<Float32Array[]> {
  return (await group.allGather(bytesOf(values))).map(floatsOf);
}

/**
 * The values of every rank, in rank order, on rank 0, which asks each of the others for its own; on these nothing.
 */
export async function gatherValuesToFirst(
  group: ProcessGroup,
  values: Float32Array,
  label: string,
): Promise<Float32Array[]> {
  if (group.rank > 0) {
    await group.recv(0, label);
    await group.send(0, bytesOf(values), label);
    return [];
  }
  const others = Array.from({ length: group.size - 1 }, (_, i) => i + 1);
  await Promise.all(others.map((rank) => group.send(rank, new Uint8Array(0), label)));
  const received = await Promise.all(others.map((rank) => group.recv(rank, label)));
  return [values, ...received.map(floatsOf)];
}

/** Handle on the elements of a tensor that a rank owns; freed by the receiver. */
function segmentOf(tensor: Tensor, { size }: ProcessGroup, rank: number): Tensor {
  const { start, end } = pairedSegment(tensor.size, size, rank);
  return tensor.elements(start, end);
}

/** The bytes of {@linkcode segmentOf} as they are. */
function segmentWords(tensor: Tensor, group: ProcessGroup, rank: number): Tensor {
  using segment = segmentOf(tensor, group, rank);
  return segment.words();
}

/**
 * Calls `exchange` with the values of each tensor, those of a lot at once; the calls are in order, so that ranks agree
 * on the collectives that they begin with. When an exchange fails, those under way are waited for before this rejects.
 */
async function forEachRead(
  backend: Backend,
  memory: HostMemory,
  tensors: readonly Tensor[],
  exchange: (values: Float32Array, index: number) => Promise<void>,
): Promise<void> {
  const underWay: Promise<void>[] = [];
  let index = 0;
  try {
    for (const { start, end } of cutIntoLots(tensors.map(({ size }) => size))) {
      const lot = tensors.slice(start, end);
      const values = memory.floats(lot.reduce((total, { size }) => total + size, 0));
      let at = 0;
      const into = lot.map(({ size }) => values.subarray(at, at += size));
      const read = await backend.readAll(lot, into);
      if (underWay.length === LOTS_UNDER_WAY) await underWay.shift();
      const exchanged = allDone(read.map((tensorValues) => exchange(tensorValues, index++)))
        .then(() => memory.give(values));
      exchanged.catch(() => {}); // reported where it is waited for, which may be after another error
      underWay.push(exchanged);
    }
  } finally {
    await allDone(underWay);
  }
}

/** Waits for all promises, also when one rejects, and only then rejects. */
async function allDone(promises: readonly Promise<void>[]): Promise<void> {
  await Promise.allSettled(promises);
  await Promise.all(promises);
}
