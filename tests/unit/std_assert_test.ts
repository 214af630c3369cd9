import { deepStrictEqual, ok, rejects, throws } from "node:assert/strict";
import * as std from "@std/assert";

/** Every assertion with arguments that hold and arguments that do not. */
const CASES: readonly [name: keyof typeof std, holds: readonly unknown[], fails: readonly unknown[]][] = [
  ["assert", [1], [0]],
  ["assertFalse", [0], [1]],
  ["assertEquals", [{ a: [1, NaN] }, { a: [1, NaN] }], [{ a: [1] }, { a: [2] }]],
  ["assertEquals", [new Float32Array([1]), new Float32Array([1])], [new Float32Array([1]), new Float32Array([2])]],
  ["assertNotEquals", [[1], [2]], [[1], [1]]],
  ["assertStrictEquals", [NaN, NaN], [[1], [1]]],
  ["assertNotStrictEquals", [[1], [1]], [1, 1]],
  ["assertAlmostEquals", [1.05, 1, 0.1], [1.2, 1, 0.1]],
  ["assertAlmostEquals", [1 + 5e-8, 1], [1 + 2e-7, 1]],
  ["assertAlmostEquals", [5e-8, 0], [NaN, 0]],
  ["assertAlmostEquals", [Infinity, Infinity], [Infinity, 1, 0.1]],
  ["assertAlmostEquals", [NaN, NaN], [1, NaN, 0.1]],
  ["assertGreater", [2, 1], [1, 1]],
  ["assertGreaterOrEqual", [1, 1], [NaN, 1]],
  ["assertLess", [1, 2], [NaN, 2]],
  ["assertLessOrEqual", [2, 2], [3, 2]],
  ["assertExists", [0], [null]],
  ["assertStringIncludes", ["abc", "bc"], ["abc", "bd"]],
  ["assertArrayIncludes", [[{ a: 1 }, 2], [{ a: 1 }]], [[{ a: 1 }, 2], [{ a: 2 }]]],
  ["assertMatch", ["rank 3", /\d/], ["rank", /\d/]],
  ["assertNotMatch", ["rank", /\d/], ["rank 3", /\d/]],
  ["assertInstanceOf", [new RangeError(), Error], [{}, Error]],
  ["assertIsError", [new RangeError("12 heads"), RangeError, "heads"], [new RangeError("12 heads"), RangeError, "kv"]],
  ["assertIsError", [new RangeError("12 heads"), Error, /\d+/], ["12 heads"]],
];

for (const [i, [name, holds, fails]] of CASES.entries()) {
  Deno.test(`${name} tells what holds from what does not (case ${i})`, () => {
    const assertion = std[name] as (...args: readonly unknown[]) => unknown;
    assertion(...holds);
    throws(() => assertion(...fails), std.AssertionError);
  });
}

function fault(): never {
  throw new RangeError("Cannot split 12 heads across 8 ranks");
}

Deno.test("assertThrows returns the error, and fails on silence, another class and another message", () => {
  ok(std.assertThrows(fault) instanceof RangeError);
  deepStrictEqual(std.assertThrows(fault, RangeError, "8 ranks").name, "RangeError");
  throws(() => std.assertThrows(() => {}), std.AssertionError);
  throws(() => std.assertThrows(fault, TypeError), std.AssertionError);
  throws(() => std.assertThrows(fault, RangeError, "9 ranks"), std.AssertionError);
});

Deno.test("assertRejects returns the reason, and fails on success, another class and a synchronous throw", async () => {
  const reject = () => Promise.reject(new RangeError("Cannot split 12 heads across 8 ranks"));
  ok(await std.assertRejects(reject) instanceof RangeError);
  deepStrictEqual((await std.assertRejects(reject, RangeError, "8 ranks")).name, "RangeError");
  await rejects(std.assertRejects(() => Promise.resolve()), std.AssertionError);
  await rejects(std.assertRejects(reject, TypeError), std.AssertionError);
  await rejects(std.assertRejects(fault, RangeError), std.AssertionError);
});

Deno.test("fail and unreachable always throw, with the message", () => {
  throws(() => std.fail("no gradient"), { name: "AssertionError", message: "Failed assertion: no gradient" });
  throws(() => std.unreachable(), std.AssertionError);
});
