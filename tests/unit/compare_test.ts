/** Negative controls of the comparison that other tests rely on. */

import { AssertionError, assertThrows } from "@std/assert";
import { assertClose } from "../_support/compare.ts";

const expected = Float32Array.of(1, -100, 0);

Deno.test("assertClose accepts differences up to absolute + relative · |expected|", () => {
  assertClose(expected, expected, { what: "x" });
  assertClose([1.25, -100, 0.25], [1, -100, 0], { absolute: 0.25, what: "x" });
  assertClose([1, -150, 0], [1, -100, 0], { relative: 0.5, what: "x" });
});

Deno.test("assertClose names the worst element", () => {
  const actual = Float32Array.of(1.5, -103, 0);
  assertThrows(
    () => assertClose(actual, expected, { absolute: 0.1, what: "x" }),
    AssertionError,
    "x: 2 of 3 elements are out of tolerance (absolute 0.1, relative 0), worst at 1: got -103, expected -100",
  );
});

const refused: Record<string, [actual: number[], expected: number[]]> = {
  "NaN against a number": [[NaN], [1]],
  "a number against NaN": [[1], [NaN]],
  "NaN on both sides": [[NaN], [NaN]],
  "infinity on both sides": [[Infinity], [Infinity]],
  "zeros against infinity": [[0], [-Infinity]],
  "other lengths": [[1], [1, 1]],
  "nothing": [[], []],
};

for (const [what, [actual, wanted]] of Object.entries(refused)) {
  Deno.test(`assertClose refuses ${what}, whatever the tolerance`, () => {
    assertThrows(() => assertClose(actual, wanted, { absolute: 1e9, relative: 1e9, what: "x" }), AssertionError, "x");
  });
}

Deno.test("assertClose refuses zeros throughout when told to", () => {
  const tolerance = { absolute: 1, what: "x", rejectAllZero: true };
  assertThrows(() => assertClose([0, 0], [0, 0.5], tolerance), AssertionError, "x: all 2 elements are zero");
  assertThrows(() => assertClose([0, 0.5], [0, 0], tolerance), AssertionError, "x (expected): all 2");
  assertClose([0, 0.5], [0, 0.6], tolerance);
});
