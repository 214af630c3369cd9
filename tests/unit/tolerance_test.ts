import { assert, assertAlmostEquals, assertEquals, assertFalse, assertThrows } from "@std/assert";
import { compare } from "../../packages/bench/verify/tolerance.ts";

const TOLERANCE = { ofLargest: 1e-3, relative: 1e-2, reason: "a test" };

Deno.test("equal numbers use nothing of the tolerance", () => {
  const { absoluteError, relativeError, used, passed } = compare("x", [1, -2, 0], [1, -2, 0], TOLERANCE);
  assertEquals([absoluteError, relativeError, used, passed], [0, 0, 0, true]);
});

Deno.test("errors are measured against the largest number and against their own", () => {
  // Allowed: 1e-3 · 10 + 1e-2 · 10 = 0.11 at the first, 1e-3 · 10 = 0.01 at the second.
  const large = compare("x", [10.1, 0], [10, 0], TOLERANCE);
  assertAlmostEquals(large.absoluteError, 0.1, 1e-12);
  assertAlmostEquals(large.relativeError, 0.01, 1e-12);
  assertAlmostEquals(large.used, 0.1 / 0.11, 1e-9);
  assert(large.passed);
  const small = compare("x", [10, 0.02], [10, 0], TOLERANCE);
  assertAlmostEquals(small.used, 2, 1e-9);
  assertFalse(small.passed);
});

Deno.test("numbers that are not finite fail", () => {
  for (const bad of [NaN, Infinity, -Infinity]) {
    assertFalse(compare("x", [1, bad], [1, 1], TOLERANCE).passed);
    assertFalse(compare("x", [bad, 1], [1, 1], TOLERANCE).passed);
  }
  assertFalse(compare("x", [NaN], [NaN], TOLERANCE).passed);
  assertFalse(compare("x", [Infinity], [Infinity], TOLERANCE).passed);
});

Deno.test("all zeros fail where they are not expected, however wide the tolerance", () => {
  const wide = { ofLargest: 10, relative: 0, reason: "a test" };
  assertFalse(compare("x", [0, 0], [1, 2], wide).passed);
  assert(compare("x", [0, 0], [0, 0], wide).passed);
  assertFalse(compare("x", [1e-30, 0], [0, 0], wide).passed);
});

Deno.test("another number of numbers is refused", () => {
  assertThrows(() => compare("x", [1], [1, 2], TOLERANCE), RangeError, "there are 1 numbers, wanted 2");
});
