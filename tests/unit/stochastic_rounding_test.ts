import { assertEquals } from "@std/assert";
import { randomBits, roundToBf16, roundToF16 } from "../../packages/core/backend/stochastic_rounding.ts";
import { Random } from "../_support/random.ts";

const ROUNDINGS = [["f16", roundToF16, 13, Math.f16round], ["bf16", roundToBf16, 16, undefined]] as const;

for (const [name, round, bits, nearest] of ROUNDINGS) {
  Deno.test(`stochastic rounding to ${name} is right on average and exact where it can be`, () => {
    const values = [...new Random(1).normals(20)].flatMap((x) => [x, x * 2 ** -13, Math.fround(x * 2 ** -18)]);
    for (const x of [...values.map(Math.fround), 0, 1, -1]) {
      const step = 2 ** bits / 64;
      const rounded = Array.from({ length: 64 }, (_, i) => round(x, (i + 0.5) * step));
      const [low, high] = [Math.min(...rounded), Math.max(...rounded)];
      if (nearest) assertEquals([nearest(low), nearest(high)], [low, high]);
      assertEquals(low <= x && x <= high, true, `${x} lies outside ${low} and ${high}`);
      // All equally likely draws, 64 of them: the mean misses by at most one of the 64 falling on the wrong side.
      const mean = rounded.reduce((sum, each) => sum + each, 0) / 64;
      assertEquals(Math.abs(mean - x) <= (high - low) / 64 + Math.abs(x) * 2 ** -22, true, `mean of ${x} is ${mean}`);
    }
  });
}

Deno.test("a number of binary16 is rounded to itself, and beyond the largest one to it", () => {
  for (let bits = 0; bits < 0x7c00; bits += 7) {
    const [x] = new Float16Array(new Uint16Array([bits]).buffer);
    for (const random of [0, 0x1fff]) {
      assertEquals([roundToF16(x, random), roundToF16(-x, random)], [x, x === 0 ? 0 : -x]);
    }
  }
  assertEquals([roundToF16(1e6, 0), roundToF16(-65520, 0x1fff)], [65504, -65504]);
});

Deno.test("random bits differ by seed, stream, step and element, and do not depend on where a segment starts", () => {
  const rounding = { seed: 1, stream: 2 };
  const base = randomBits(rounding, 3, 4);
  const others = [
    randomBits({ ...rounding, seed: 2 }, 3, 4),
    randomBits({ ...rounding, stream: 3 }, 3, 4),
    randomBits(rounding, 4, 4),
    randomBits(rounding, 3, 5),
    randomBits(rounding, 3, 4 + 2 ** 32),
  ];
  for (const other of others) {
    for (const key of ["param", "m", "v"] as const) assertEquals(other[key] === base[key], false);
  }
  const mean = Array.from({ length: 4096 }, (_, i) => randomBits(rounding, 1, i).m).reduce((a, b) => a + b) / 4096;
  assertEquals(Math.abs(mean - 32767.5) < 4 * 65536 / Math.sqrt(12 * 4096), true, `mean ${mean}`);
});
