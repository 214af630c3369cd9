/**
 * Segments of several tensors in one message.
 *
 * @module
 */

import { elementCount, type Shape } from "../tensor/shape.ts";
import { segmentBounds } from "../transport/collectives.ts";

/** A rank's segment of one tensor in a message of several. */
export interface PackedSegment {
  /** Number of the tensor. */
  readonly index: number;
  /** First element of the segment within the tensor. */
  readonly start: number;
  /** Last element plus one. */
  readonly end: number;
  /** Where the segment starts within the message. */
  readonly at: number;
}

/** What a message of rank `rank` holds: its segment of each tensor, one behind the other. */
export function packedSegments(shapes: readonly Shape[], ranks: number, rank: number): PackedSegment[] {
  let at = 0;
  return shapes.map((shape, index) => {
    const bounds = segmentBounds(elementCount(shape), ranks, rank);
    const segment = { index, ...bounds, at };
    at += bounds.end - bounds.start;
    return segment;
  });
}

/** For each rank, the message of its segments of whole tensors. */
export function packByRank(wholes: readonly Float32Array[], ranks: number): Float32Array[] {
  return Array.from({ length: ranks }, (_, rank) =>
    concatenate(wholes.map((whole) => {
      const { start, end } = segmentBounds(whole.length, ranks, rank);
      return whole.subarray(start, end);
    })));
}

/** One array behind the other. */
export function concatenate(arrays: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}
