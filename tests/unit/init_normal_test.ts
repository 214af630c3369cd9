import { assert, assertAlmostEquals, assertEquals, assertNotEquals } from "@std/assert";
import { UNIFORM_SUM_MEAN, UNIFORM_SUM_STD, uniformSum } from "../../packages/core/backend/init_normal.ts";
import type { InitNormalOptions } from "../../packages/core/backend/ops.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import { dot } from "../_support/gradient_check.ts";

const COUNT = 200_000;

/** Five standard errors of a mean over COUNT numbers of variance 1. */
const FIVE_SIGMA = 5 / Math.sqrt(COUNT);

Deno.test("initNormal has the mean, deviation and tails of eight uniforms", async () => {
  for (const seed of [0, 1, 0xffffffff]) {
    const x = (await draw(COUNT, { std: 0.5, seed, stream: 3 })).map((value) => value / 0.5);
    const moment = (power: number) => x.reduce((sum, value) => sum + value ** power, 0) / COUNT;
    assertAlmostEquals(moment(1), 0, FIVE_SIGMA);
    // Standard errors: √2/√n of the variance, √15/√n of the third moment and √96/√n of the fourth of a normal.
    assertAlmostEquals(moment(2), 1, Math.SQRT2 * FIVE_SIGMA);
    assertAlmostEquals(moment(3), 0, Math.sqrt(15) * FIVE_SIGMA);
    // Kurtosis of the sum of n uniforms: 3 − 6/(5n), with n = 8.
    assertAlmostEquals(moment(4), 3 - 0.15, Math.sqrt(96) * FIVE_SIGMA);
    // P(|x| > 3) of that sum is 0.0019 (0.0027 for a normal).
    const tail = x.filter((value) => Math.abs(value) > 3).length / COUNT;
    assert(tail > 0.0014 && tail < 0.0024, `share beyond three deviations: ${tail}`);
  }
});

Deno.test("initNormal gives unrelated numbers to other streams, seeds and neighbours", async () => {
  const base = { std: 1, seed: 1, stream: 1 };
  const x = await draw(COUNT, base);
  for (
    const other of [{ stream: 2 }, { seed: 2 }, { seed: 2, stream: 2 }, { seed: 0 }, { start: 1 }, { start: 2 ** 32 }]
  ) {
    const y = await draw(COUNT, { ...base, ...other });
    assertAlmostEquals(dot(x, y) / COUNT, 0, FIVE_SIGMA, `correlation with ${JSON.stringify(other)}`);
  }
});

Deno.test("initNormal of a shard is the slice of the whole", async () => {
  const options = { std: 0.02, seed: 7, stream: 5 };
  const whole = await draw(100, options);
  assertEquals(await draw(30, { ...options, start: 60 }), whole.slice(60, 90));
  assertEquals(await draw(100, options), whole, "the same again");
});

Deno.test("initNormal of some columns is those of the whole", async () => {
  const options = { std: 0.02, seed: 7, stream: 5 };
  const whole = await draw(7 * 10, options);
  await using backend = createReferenceBackend({ poison: true });
  using part = backend.empty([7, 4], "weights");
  backend.ops.initNormal(part, { ...options, start: 3, stride: 10 });
  const rows = Array.from({ length: 7 }, (_, row) => [...whole.subarray(10 * row + 3, 10 * row + 7)]);
  assertEquals([...await backend.read(part)], rows.flat());
});

Deno.test("initNormal tells elements beyond 2³² apart", () => {
  const low = [0, 1, 2, 3].map((i) => uniformSum(1, 1, i));
  const high = [0, 1, 2, 3].map((i) => uniformSum(1, 1, i + 2 ** 32));
  assertNotEquals(low, high);
});

Deno.test("initNormal rounds one product of f32 numbers", async () => {
  const factor = Math.fround(0.3 / UNIFORM_SUM_STD);
  const expected = Float32Array.from({ length: 5 }, (_, i) => (uniformSum(9, 2, i) - UNIFORM_SUM_MEAN) * factor);
  assertEquals(await draw(5, { std: 0.3, seed: 9, stream: 2 }), expected);
});

Deno.test("initNormal keeps its numbers: they are part of what a seed means", () => {
  assertEquals([0, 1, 2].map((i) => uniformSum(42, 1, i)), [213075, 240284, 187992]);
});

async function draw(count: number, options: InitNormalOptions): Promise<Float32Array> {
  const backend = createReferenceBackend({ poison: true });
  using tensor = backend.empty([count], "weights");
  backend.ops.initNormal(tensor, options);
  return await backend.read(tensor);
}
