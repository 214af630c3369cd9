/**
 * Sums, and the clipping factor that is made of them.
 *
 * @module
 */

import { PARTIAL_SUMS } from "../ops.ts";

/** out [1] = sum of x. */
export function sum(x: Float32Array, out: Float32Array): void {
  let total = 0;
  for (let i = 0; i < x.length; i++) total += x[i];
  out[0] = total;
}

/** out [PARTIAL_SUMS] += sums of squares of x, element i counted in sum i mod PARTIAL_SUMS. */
export function sumSquares(x: Float32Array, out: Float32Array): void {
  const sums = new Float64Array(PARTIAL_SUMS);
  for (let i = 0; i < x.length; i++) sums[i % PARTIAL_SUMS] += x[i] * x[i];
  for (let i = 0; i < PARTIAL_SUMS; i++) out[i] += sums[i];
}

/** result [2] = { norm, factor }; see `Ops.clipFactor`. */
export function clipFactor(
  partials: Float32Array,
  result: Float32Array,
  maxNorm: number,
  gradientScale: number,
): void {
  const squares = Math.fround(partials.reduce((total, partial) => total + partial, 0));
  const isFinite = Number.isFinite(squares);
  const norm = isFinite ? Math.sqrt(squares) * gradientScale : Infinity;
  result[0] = norm;
  result[1] = isFinite ? Math.min(1, maxNorm / (norm + 1e-6)) : 0;
}
