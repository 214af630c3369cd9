/**
 * Stochastic rounding of `Ops.adamw` as plain TypeScript; WGSL says the same.
 *
 * @module
 */

import { mixBits } from "./init_normal.ts";
import type { StochasticRounding } from "./ops.ts";

/** Distance between the states of a hash. */
export const HASH_STEP = 0x9e3779b9;

/** Random bits of one element, one number for each tensor that is rounded. */
export interface RandomBits {
  /** 16 bits, of which f16 takes the lower 13. */
  readonly param: number;
  /** 16 bits. */
  readonly m: number;
  /** 16 bits. */
  readonly v: number;
}

/** State of the hash for 2³² elements of a tensor, the `high`-th of them, at a step. */
export function roundingState({ seed, stream }: StochasticRounding, step: number, high: number): number {
  return mixBits(mixBits(mixBits(mixBits(seed ^ HASH_STEP) ^ stream) ^ step) ^ high);
}

/** Random bits of element `index` at a step. */
export function randomBits(rounding: StochasticRounding, step: number, index: number): RandomBits {
  const high = Math.floor(index / 2 ** 32);
  const bits = mixBits(roundingState(rounding, step, high) ^ (index >>> 0));
  return { param: mixBits((bits + HASH_STEP) >>> 0) & 0xffff, m: bits & 0xffff, v: bits >>> 16 };
}

const number = new Float32Array(1);
const word = new Uint32Array(number.buffer);

/**
 * A neighbour of x among the numbers of binary16, the upper one with the odds of the lower 13 of `random`; the largest
 * one where x lies beyond it.
 */
export function roundToF16(x: number, random: number): number {
  const share = random & 0x1fff;
  number[0] = Math.abs(x);
  if (word[0] < 0x38800000) {
    // Below 2⁻¹⁴ the numbers of binary16 lie 2⁻²⁴ apart.
    const up = Math.floor(Math.fround(Math.fround(number[0] * 2 ** 24) + share / 2 ** 13)) / 2 ** 24;
    return x < 0 ? -up : up;
  }
  word[0] = Math.min((word[0] + share) & ~0x1fff, 0x477fe000);
  return x < 0 ? -number[0] : number[0];
}

/** A neighbour of x among the numbers of bfloat16, the one further from zero with the odds of 16 random bits. */
export function roundToBf16(x: number, random: number): number {
  number[0] = x;
  word[0] = (word[0] + random) & ~0xffff;
  return number[0];
}
