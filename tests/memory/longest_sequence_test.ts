import { assertEquals, assertGreaterOrEqual } from "@std/assert";
import {
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  estimateMemory,
  parseTrainConfig,
  type ProcessGroup,
  type SequenceStrategy,
  type ShardStage,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { tinyModel } from "../_support/tiny_model.ts";

const MODEL = tinyModel({ dim: 32, heads: 8, kvHeads: 8, headDim: 4, ffn: 64, vocab: 64, layers: 8 });

type Create = (options: { backend: Backend; group: ProcessGroup }) => SequenceStrategy;

/** Peak bytes of the rank that holds most. */
function peakBytes(create: Create, ranks: number, seqTokens: number, shard: ShardStage): number {
  const train = parseTrainConfig({ seqTokens, shard });
  const strategies = createLoopbackGroups(ranks).map((group) => create({ backend: createReferenceBackend(), group }));
  return Math.max(...strategies.map((strategy) => estimateMemory(MODEL, train, strategy).peakBytes));
}

/** Tokens of the longest sequence that fits, by halving. */
function longest(create: Create, ranks: number, budgetBytes: number, shard: ShardStage): number {
  let [fits, exceeds] = [ranks, 2048 * ranks];
  while (exceeds - fits > 1) {
    const middle = Math.floor((fits + exceeds) / 2);
    if (peakBytes(create, ranks, middle, shard) <= budgetBytes) fits = middle;
    else exceeds = middle;
  }
  return fits;
}

for (const [name, create] of [["ring", createRingStrategy], ["ulysses", createUlyssesStrategy]] as const) {
  Deno.test(`${name}: with sharded weights the longest sequence grows at least 1.9-fold with twice the ranks`, () => {
    const budgetBytes = 2 * peakBytes(create, 1, 16, "none");
    const tokens = [1, 2, 4, 8].map((ranks) => longest(create, ranks, budgetBytes, "weights"));
    for (const [i, count] of tokens.slice(1).entries()) assertGreaterOrEqual(count / tokens[i], 1.9, `${tokens}`);
    // Whole states take the same room from tokens on every rank.
    const whole = [1, 8].map((ranks) => longest(create, ranks, budgetBytes, "none"));
    assertEquals(whole[0], tokens[0]);
    assertGreaterOrEqual(tokens[3] / whole[1], 1.5);
  });
}
