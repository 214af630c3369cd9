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

/** One array behind the other, in one of their length, which is returned. */
export function concatenate<T extends Float32Array>(arrays: readonly Float32Array[], into: T): T {
  let at = 0;
  for (const array of arrays) {
    into.set(array, at);
    at += array.length;
  }
  return into;
}

/** Elements of all arrays together. */
export function totalLength(arrays: readonly Float32Array[]): number {
  return arrays.reduce((sum, { length }) => sum + length, 0);
}
