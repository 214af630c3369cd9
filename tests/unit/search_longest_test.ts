import { assert, assertEquals, assertLess } from "@std/assert";
import { MODEL_PRESETS, parseTrainConfig } from "@mst/core";
import { planLongest } from "../../packages/bench/config/longest_plan.ts";
import type { LengthSearch, RunConfig } from "../../packages/bench/config/run_config.ts";
import { searchLongest } from "../../packages/bench/modes/search_longest.ts";

/** Searches where `limit` tokens fit and more do not. */
async function search(limit: number, search: LengthSearch) {
  const tried: number[] = [];
  const found = await searchLongest(search, (seqTokens) => {
    tried.push(seqTokens);
    return Promise.resolve(seqTokens <= limit);
  });
  return { found, tried };
}

Deno.test("a good first guess is settled in two runs, one that fits and one that does not", async () => {
  const lengths = { startTokens: 4096, unitTokens: 16, minTokens: 4, maxTokens: 1e6 };
  const { found, tried } = await search(4100, lengths);
  assertEquals(found, { seqTokens: 4096, exceededTokens: 4112 });
  assertEquals(tried, [4096, 4112]);
});

Deno.test("the longest length is found from any start to the unit", async () => {
  for (const unitTokens of [1, 8, 64]) {
    for (const startTokens of [4, 640, 6400]) {
      for (const limit of [4, 5, 63, 639, 640, 641, 5000, 9998, 9999]) {
        const { found, tried } = await search(limit, { startTokens, unitTokens, minTokens: 4, maxTokens: 10_000 });
        const { seqTokens, exceededTokens } = found!;
        const what = `limit ${limit}, start ${startTokens}, unit ${unitTokens}: ${tried}`;
        assert(seqTokens <= limit && exceededTokens! > limit, what);
        assert(exceededTokens! - seqTokens <= unitTokens, what);
        assertEquals(new Set(tried).size, tried.length, `none is tried twice: ${what}`);
        assertLess(tried.length, 2 * Math.log2(10_000 / unitTokens) + 3, what);
      }
    }
  }
});

Deno.test("a search ends at the shortest and at the longest length", async () => {
  const lengths = { startTokens: 640, unitTokens: 64, minTokens: 4, maxTokens: 1000 };
  assertEquals((await search(3, lengths)).found, undefined);
  assertEquals((await search(1000, lengths)).found, { seqTokens: 1000, exceededTokens: undefined });
  assertEquals(await search(9, { startTokens: 9, unitTokens: 1, minTokens: 9, maxTokens: 9 }), {
    found: { seqTokens: 9, exceededTokens: undefined },
    tried: [9],
  });
});

const RUN: RunConfig = {
  strategy: "usp",
  ranks: 4,
  mesh: { ulysses: 2, ring: 2 },
  placement: "zigzag",
  device: "reference",
  modelName: "tiny",
  model: MODEL_PRESETS.tiny,
  train: parseTrainConfig({ seqTokens: 4 }),
  warmup: 0,
  profile: false,
  timeoutSeconds: 60,
};

Deno.test("a search starts where the estimate meets the budget, within the text", () => {
  const plan = (memoryBudgetBytes: number, maxTokens = 1e6) => planLongest({ ...RUN, memoryBudgetBytes }, maxTokens);
  const [small, large] = [plan(20 * 2 ** 20), plan(40 * 2 ** 20)];
  assertLess(2 * small.startTokens, large.startTokens, "weights take their part of either budget");
  for (const { startTokens, unitTokens } of [small, large]) {
    assertEquals(startTokens % unitTokens, 0);
    assert(unitTokens <= startTokens / 256 && 2 * unitTokens > startTokens / 256);
  }
  assertEquals(plan(1), { startTokens: 4, unitTokens: 1, minTokens: 4, maxTokens: 1e6 });
  assertEquals(plan(40 * 2 ** 20, 300), { startTokens: 300, unitTokens: 1, minTokens: 4, maxTokens: 300 });
});
