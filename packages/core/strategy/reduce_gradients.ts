/**
 * Sums replicated gradients over ranks through host memory.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ProcessGroup } from "../transport/process_group.ts";

/** Gradients are read from the device in groups of about this size, the next one while one is being reduced. */
const BUCKET_BYTES = 32 * 2 ** 20;

/** Replaces every gradient by its sum over the ranks of the group, bitwise the same on all of them. */
export async function allReduceGradients(
  backend: Backend,
  group: ProcessGroup,
  gradients: readonly Tensor[],
): Promise<void> {
  if (group.size === 1) return;
  const buckets = bucketize(gradients);
  let reading = readBucket(backend, buckets[0] ?? []);
  for (const [i, bucket] of buckets.entries()) {
    const values = await reading;
    if (i + 1 < buckets.length) reading = readBucket(backend, buckets[i + 1]);
    for (const [j, gradient] of bucket.entries()) {
      await group.allReduce(values[j]);
      backend.write(gradient, values[j]);
    }
  }
}

function readBucket(backend: Backend, bucket: readonly Tensor[]): Promise<Float32Array[]> {
  const reading = backend.readAll(bucket);
  reading.catch(() => {}); // reported where it is awaited, which may be after another error
  return reading;
}

function bucketize(gradients: readonly Tensor[]): Tensor[][] {
  const buckets: Tensor[][] = [];
  let bytes = Infinity;
  for (const gradient of gradients) {
    if (bytes + gradient.bytes > BUCKET_BYTES) {
      buckets.push([]);
      bytes = 0;
    }
    buckets.at(-1)!.push(gradient);
    bytes += gradient.bytes;
  }
  return buckets;
}
