/**
 * Comparison of arrays of numbers with a tolerance, for tests.
 *
 * @module
 */

import { AssertionError } from "@std/assert";

/** How far numbers may be apart: an element passes when |actual − expected| ≤ absolute + relative · |expected|. */
export interface Tolerance {
  /** Allowed difference that does not depend on the size of the number; 0 if left out. */
  absolute?: number;
  /** Allowed difference as a share of the expected number; 0 if left out. */
  relative?: number;
  /** What is compared, for the message. */
  what: string;
  /** Whether to fail when all of `expected` or all of `actual` is zero, as a gradient that was never computed is. */
  rejectAllZero?: boolean;
}

/**
 * Asserts that two arrays agree element by element, and names the worst element otherwise.
 *
 * @throws {AssertionError} when lengths differ, the arrays are empty, a number on either side is not finite, an element
 * is out of tolerance, or (with `rejectAllZero`) one side is zero throughout
 */
export function assertClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: Tolerance): void {
  const { absolute = 0, relative = 0, what, rejectAllZero = false } = tolerance;
  if (actual.length !== expected.length) {
    throw new AssertionError(`${what}: has ${actual.length} elements, expected ${expected.length}`);
  }
  if (actual.length === 0) throw new AssertionError(`${what}: there is nothing to compare`);
  assertFinite(actual, what);
  assertFinite(expected, `${what} (expected)`);
  if (rejectAllZero) {
    assertNotAllZero(actual, what);
    assertNotAllZero(expected, `${what} (expected)`);
  }
  let worst = 0;
  let worstExcess = -Infinity;
  let outside = 0;
  for (let i = 0; i < actual.length; i++) {
    const excess = Math.abs(actual[i] - expected[i]) - (absolute + relative * Math.abs(expected[i]));
    if (excess > 0) outside++;
    if (excess > worstExcess) [worst, worstExcess] = [i, excess];
  }
  if (outside === 0) return;
  const difference = Math.abs(actual[worst] - expected[worst]);
  throw new AssertionError(
    `${what}: ${outside} of ${actual.length} elements are out of tolerance (absolute ${absolute}, relative ` +
      `${relative}), worst at ${worst}: got ${actual[worst]}, expected ${expected[worst]}, difference ${difference}`,
  );
}

/** Asserts that every number is finite. */
export function assertFinite(values: ArrayLike<number>, what: string): void {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) {
      throw new AssertionError(`${what}: element ${i} is ${values[i]}, expected a number`);
    }
  }
}

/** Asserts that at least one number is not zero. */
export function assertNotAllZero(values: ArrayLike<number>, what: string): void {
  for (let i = 0; i < values.length; i++) if (values[i] !== 0) return;
  throw new AssertionError(`${what}: all ${values.length} elements are zero`);
}
