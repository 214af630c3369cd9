/**
 * Comparing numbers of two runs, and how far apart rounding may take them.
 *
 * @module
 */

import type { PrecisionName } from "@mst/core";

/** How far a number may be from the expected one: absolute (as a part of the tensor's largest) plus relative. */
export interface Tolerance {
  /** Part of the largest expected magnitude of the tensor. */
  readonly ofLargest: number;
  /** Part of the expected number itself. */
  readonly relative: number;
  /** Why this much. */
  readonly reason: string;
}

/** Largest errors of a tensor. */
export interface Comparison {
  /** What was compared. */
  readonly name: string;
  /** Largest absolute error; NaN when a number is not finite. */
  readonly absoluteError: number;
  /** That error as a part of the largest expected magnitude. */
  readonly relativeError: number;
  /** Largest error as a part of what is allowed at its place: above 1 the tolerance is exceeded. */
  readonly used: number;
  /** What is allowed. */
  readonly tolerance: Tolerance;
  /** Whether every number is finite and within the tolerance, and they are not all zero where they should not be. */
  readonly passed: boolean;
}

/** Tolerances of comparisons, by quantity. */
export type Tolerances = Readonly<Record<"loss" | "logits" | "gradients" | "losses", Tolerance>>;

/** Tolerances where all numbers are f32. */
const F32: Tolerances = {
  loss: {
    ofLargest: 0,
    relative: 1e-5,
    reason: "a mean of f32 losses whose terms differ by some units in the last place (6e-8), added up in another order",
  },
  logits: {
    ofLargest: 1e-5,
    relative: 1e-5,
    reason: "f32 sums over the width in another order, through every layer; WGSL's exp, sin and cos are off by some " +
      "units in the last place more",
  },
  gradients: {
    ofLargest: 2e-5,
    relative: 2e-5,
    reason: "as logits, and backward adds sums over all tokens, in which large terms cancel",
  },
  losses: {
    ofLargest: 0,
    relative: 1e-4,
    reason:
      "AdamW divides by the root of small second moments in its first steps, which makes rounding of gradients grow",
  },
};

/** Tolerances where weights and activations are f16, of 11 significant bits: each is off by up to 4.9e-4 of its size. */
const MIXED: Tolerances = {
  loss: {
    ofLargest: 0,
    relative: 1e-3,
    reason: "a mean over many tokens, of f16 logits whose roundings (4.9e-4 of each) nearly cancel",
  },
  logits: {
    ofLargest: 4e-3,
    relative: 2e-3,
    reason:
      "weights, the residual stream and the logits themselves are each rounded to 4.9e-4 of their size, per layer",
  },
  gradients: {
    ofLargest: 2e-2,
    relative: 2e-2,
    reason: "as logits, through forward and backward, and sums over tokens in which large terms cancel",
  },
  losses: {
    ofLargest: 0,
    relative: 5e-3,
    reason: "as loss, and updates of f16 weights are rounded at random to steps of up to 9.8e-4 of their size",
  },
};

/** Tolerances by precision. */
export const TOLERANCES: Readonly<Record<PrecisionName, Tolerances>> = { f32: F32, mixed: MIXED };

/**
 * Compares numbers with the expected ones.
 *
 * @throws {RangeError} when there are more or fewer of them
 */
export function compare(
  name: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
): Comparison {
  if (actual.length !== expected.length) {
    throw new RangeError(`Cannot compare ${name}: there are ${actual.length} numbers, wanted ${expected.length}`);
  }
  const largest = largestMagnitude(expected);
  let absoluteError = 0;
  let used = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(actual[i] - expected[i]);
    if (Number.isNaN(error)) {
      return { name, absoluteError: NaN, relativeError: NaN, used: NaN, tolerance, passed: false };
    }
    if (error === 0) continue;
    const allowed = tolerance.ofLargest * largest + tolerance.relative * Math.abs(expected[i]);
    absoluteError = Math.max(absoluteError, error);
    used = Math.max(used, error / allowed);
  }
  const relativeError = absoluteError === 0 ? 0 : absoluteError / largest;
  const isDead = largest > 0 && largestMagnitude(actual) === 0;
  return { name, absoluteError, relativeError, used, tolerance, passed: used <= 1 && !isDead };
}

function largestMagnitude(values: ArrayLike<number>): number {
  let largest = 0;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]));
  return largest;
}
