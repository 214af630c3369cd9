/**
 * Exchange of replicated gradients and weights over ranks, through host memory.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { addFloats, allGather, allToAll, segmentBounds } from "../transport/collectives.ts";
import type { ProcessGroup } from "../transport/process_group.ts";
import { release } from "../transport/release.ts";

/** Tensors are read from the device in groups of about this size, the next one while one is being exchanged. */
const BUCKET_BYTES = 32 * 2 ** 20;

/** Replaces every gradient by its sum over the ranks of the group, bitwise the same on all of them. */
export async function allReduceGradients(
  backend: Backend,
  group: ProcessGroup,
  gradients: readonly Tensor[],
): Promise<void> {
  if (group.size === 1) return;
  await forEachRead(backend, gradients, async (values, i) => {
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
  await forEachRead(backend, gradients, async (values, i) => {
    const sum = await group.reduceScatter(values);
    using segment = segmentOf(gradients[i], group, group.rank);
    if (sum.length > 0) backend.write(segment, sum);
  });
}

/** Gives every rank the segments of all weights that the other ranks of the group hold. */
export async function allGatherWeights(
  backend: Backend,
  group: ProcessGroup,
  weights: readonly Tensor[],
): Promise<void> {
  if (group.size === 1) return;
  const own = weights.map((weight) => segmentOf(weight, group, group.rank));
  try {
    await forEachRead(backend, own, async (values, i) => {
      const parts = await group.allGather(bytesOf(values));
      for (const [rank, part] of parts.entries()) {
        using segment = segmentOf(weights[i], group, rank);
        if (rank !== group.rank && part.length > 0) backend.write(segment, new Float32Array(part.buffer));
      }
    });
  } finally {
    own.forEach((segment) => segment.free());
  }
}

/** The sum over ranks of `parts[rank]` of each, added in rank order; every pair of ranks exchanges directly. */
export async function reduceScatterParts(
  group: ProcessGroup,
  parts: readonly Float32Array[],
  label: string,
): Promise<Float32Array> {
  const [first, ...others] = (await allToAll(group, parts.map(bytesOf), label)).map(floatsOf);
  for (const other of others) {
    addFloats(first, other, first);
    release(other);
  }
  return first;
}

/** The values of every rank, in rank order. */
export async function allGatherValues(
  group: ProcessGroup,
  values: Float32Array,
  label: string,
): Promise<Float32Array[]> {
  return (await allGather(group, bytesOf(values), label)).map(floatsOf);
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function floatsOf(bytes: Uint8Array<ArrayBuffer>): Float32Array {
  return new Float32Array(bytes.buffer);
}

/** Handle on the elements of a tensor that a rank owns; freed by the receiver. */
function segmentOf(tensor: Tensor, { size }: ProcessGroup, rank: number): Tensor {
  const { start, end } = segmentBounds(tensor.size, size, rank);
  return tensor.elements(start, end);
}

/** Calls `exchange` with the values of one tensor after the other. */
async function forEachRead(
  backend: Backend,
  tensors: readonly Tensor[],
  exchange: (values: Float32Array, index: number) => Promise<void>,
): Promise<void> {
  const buckets = bucketize(tensors);
  let reading = readBucket(backend, buckets[0] ?? []);
  let index = 0;
  for (const i of buckets.keys()) {
    const read = await reading;
    if (i + 1 < buckets.length) reading = readBucket(backend, buckets[i + 1]);
    for (const values of read) await exchange(values, index++);
  }
}

function readBucket(backend: Backend, bucket: readonly Tensor[]): Promise<Float32Array[]> {
  const reading = backend.readAll(bucket);
  reading.catch(() => {}); // reported where it is awaited, which may be after another error
  return reading;
}

function bucketize(tensors: readonly Tensor[]): Tensor[][] {
  const buckets: Tensor[][] = [];
  let bytes = Infinity;
  for (const tensor of tensors) {
    if (bytes + tensor.bytes > BUCKET_BYTES) {
      buckets.push([]);
      bytes = 0;
    }
    buckets.at(-1)!.push(tensor);
    bytes += tensor.bytes;
  }
  return buckets;
}
