/**
 * Segments of several tensors in one message.
 *
 * @module
 */

import { type DType, ELEMENT_BYTES, elementBytes, elementCount, type Shape } from "../tensor/shape.ts";
import { pairedSegment } from "../transport/collectives.ts";

/** A rank's segment of one tensor in a message of several. */
export interface PackedSegment {
  /** Number of the tensor. */
  readonly index: number;
  /** First element of the segment within the tensor. */
  readonly start: number;
  /** Last element plus one. */
  readonly end: number;
  /** Where the segment starts within the message, in floats or words of 32 bits. */
  readonly at: number;
  /** How many of them it is. */
  readonly words: number;
}

/**
 * What a message of rank `rank` holds: its segment of each tensor, one behind the other.
 *
 * @param dtypes element types in which tensors travel as they lie; all f32 when left out
 */
export function packedSegments(
  shapes: readonly Shape[],
  ranks: number,
  rank: number,
  dtypes?: readonly DType[],
): PackedSegment[] {
  let at = 0;
  return shapes.map((shape, index) => {
    const { start, end } = pairedSegment(elementCount(shape), ranks, rank);
    const words = (end - start) * elementBytes(dtypes?.[index] ?? "f32") / ELEMENT_BYTES;
    const segment = { index, start, end, at, words };
    at += words;
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
