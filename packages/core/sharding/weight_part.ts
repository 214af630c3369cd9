/**
 * Parts of weights: ranges of rows or of columns.
 *
 * @module
 */

import type { WeightPart } from "../strategy/tensor_parallel.ts";
import { elementCount, type Shape } from "../tensor/shape.ts";
import type { Segment } from "../transport/collectives.ts";

/** Runs of consecutive elements that make up a part: `count` of them, `length` long and `stride` apart. */
export interface PartRuns {
  /** First element of the part within the whole weight. */
  readonly start: number;
  /** Number of runs. */
  readonly count: number;
  /** Elements of a run. */
  readonly length: number;
  /** Elements from the start of a run to that of the next. */
  readonly stride: number;
}

/** Dims of a part of a weight; of the whole without one. */
export function partShape(shape: Shape, part?: WeightPart): Shape {
  return part ? shape.map((dim, i) => i === part.dim ? part.end - part.start : dim) : shape;
}

/** Where the elements of a part are in the whole weight: one run of rows, or a run of columns in every row. */
export function partRuns(shape: Shape, part?: WeightPart): PartRuns {
  const size = elementCount(shape);
  if (!part) return segmentRuns(size, { start: 0, end: size });
  const { dim, start, end } = part;
  const row = elementCount(shape.slice(1));
  if (dim === 0) return segmentRuns(size, { start: start * row, end: end * row });
  return { start, count: shape[0], length: end - start, stride: row };
}

/** Consecutive elements of a weight as runs. */
export function segmentRuns(size: number, { start, end }: Segment): PartRuns {
  return { start, count: 1, length: end - start, stride: size };
}

/** The elements of a part. */
export function takePart(whole: Float32Array, { start, count, length, stride }: PartRuns): Float32Array {
  if (count === 1) return whole.subarray(start, start + length);
  const part = new Float32Array(count * length);
  for (let run = 0; run < count; run++) {
    const at = start + run * stride;
    part.set(whole.subarray(at, at + length), run * length);
  }
  return part;
}

/** Puts the elements of a part where they are in the whole weight. */
export function putPart(part: Float32Array, whole: Float32Array, { start, count, length, stride }: PartRuns): void {
  for (let run = 0; run < count; run++) {
    whole.set(part.subarray(run * length, (run + 1) * length), start + run * stride);
  }
}
