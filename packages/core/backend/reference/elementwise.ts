/**
 * Ops on each element by itself.
 *
 * @module
 */

import { UNIFORM_SUM_MEAN, UNIFORM_SUM_STD, uniformSum } from "../init_normal.ts";
import type { InitNormalOptions } from "../ops.ts";

/** out += x. */
export function add(x: Float32Array, out: Float32Array): void {
  for (let i = 0; i < out.length; i++) out[i] += x[i];
}

/** x *= factor. */
export function scale(x: Float32Array, factor: number): void {
  for (let i = 0; i < x.length; i++) x[i] *= factor;
}

/** Fills out [N, columns] with nearly normal numbers; see `Ops.initNormal`. */
export function initNormal(
  out: Float32Array,
  columns: number,
  { std, seed, stream, start = 0, stride = columns }: InitNormalOptions,
): void {
  // One f32 factor and one product: a device without f64 computes the same bits.
  const factor = Math.fround(std / UNIFORM_SUM_STD);
  for (let i = 0; i < out.length; i++) {
    const index = start + i + Math.floor(i / columns) * (stride - columns);
    out[i] = (uniformSum(seed, stream, index) - UNIFORM_SUM_MEAN) * factor;
  }
}
