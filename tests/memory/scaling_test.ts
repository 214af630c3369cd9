/** What a rank holds must fall with the number of ranks, under every strategy that runs on several. */

import { assert, assertAlmostEquals, assertEquals, assertLess } from "@std/assert";
import {
  createLoopbackGroups,
  createReferenceBackend,
  estimateMemory,
  type ModelConfig,
  parseTrainConfig,
  type SequenceStrategy,
  type ShardStage,
  type TrainConfig,
  Trainer,
} from "@mst/core";
import { STRATEGY_NAMES, strategyEntry, type StrategyName } from "../../packages/bench/scenario.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

/** Every size is a multiple of eight ranks, so that each has exactly an eighth. */
const MODEL: ModelConfig = tinyModel({ dim: 32, heads: 8, kvHeads: 8, headDim: 4, ffn: 64, vocab: 64, layers: 8 });

const PARALLEL = STRATEGY_NAMES.filter((name) => strategyEntry(name).isParallel);

/** What a rank holds at the peak of a step besides model states, and of these between steps. */
interface Held {
  readonly activationBytes: number;
  readonly stateBytes: number;
}

function trainConfig(seqTokens: number, shard: ShardStage, chunks = 4): TrainConfig {
  // A fixed number of mini-sequences, so that their intermediates are a fixed part of the tokens of a rank.
  return parseTrainConfig({ seqTokens, shard, mlpChunks: chunks, headChunks: chunks });
}

/** Whether ranks hold parts of the weights, and gather the rows of all in each mini-sequence. */
async function isSplit(name: StrategyName): Promise<boolean> {
  return (await onRanks(name, 2, ({ tensorParallel }) => tensorParallel !== undefined))[0];
}

/** Runs `body` on every rank of a strategy. */
async function onRanks<T>(
  name: StrategyName,
  ranks: number,
  body: (strategy: SequenceStrategy, backend: ReturnType<typeof createReferenceBackend>) => T | Promise<T>,
): Promise<T[]> {
  const { create, mesh } = strategyEntry(name);
  return await Promise.all(
    createLoopbackGroups(ranks).map(async (group) => {
      await using backend = createReferenceBackend();
      const strategy = create({ backend, group, placement: "zigzag", mesh: mesh?.(ranks, MODEL) });
      const result = await body(strategy, backend);
      await group.close();
      return result;
    }),
  );
}

/** By the closed formulas, of the rank that holds most. */
async function heldBytes(name: StrategyName, ranks: number, train: TrainConfig): Promise<Held> {
  const held = await onRanks(name, ranks, (strategy) => {
    const { peakBytes, residentBytes } = estimateMemory(MODEL, train, strategy);
    return { activationBytes: peakBytes - residentBytes, stateBytes: residentBytes };
  });
  return held.reduce((most, each) => each.activationBytes > most.activationBytes ? each : most);
}

for (const name of PARALLEL) {
  Deno.test(`${name}: peak activation bytes of a rank fall as 1 / P`, async () => {
    const split = await isSplit(name);
    const [one, ...several] = await Promise.all(
      [1, 2, 4, 8].map((ranks) => heldBytes(name, ranks, trainConfig(8192, "none", split ? 4 * ranks : 4))),
    );
    several.forEach(({ activationBytes }, i) => {
      const ranks = 2 ** (i + 1);
      const share = activationBytes * ranks / one.activationBytes;
      // One rank exchanges nothing; with several, a block that travels or a part that is packed comes on top.
      assert(share < 1.25, `${ranks} ranks hold ${share} of what one does`);
      // From then on all that a rank holds is in proportion to its tokens, but for position tables and rounding.
      if (i > 0) assertAlmostEquals(several[i - 1].activationBytes / activationBytes, 2, 0.02);
    });
  });

  Deno.test(`${name}: bytes of model states of a rank are 1 / P with sharded weights`, async () => {
    const split = await isSplit(name);
    const train = trainConfig(64, split ? "none" : "weights");
    const [one, ...several] = await Promise.all([1, 2, 4, 8].map((ranks) => heldBytes(name, ranks, train)));
    // Where ranks hold parts of the weights, each has the norms whole: value, gradient and two moments.
    const wholeBytes = split ? 4 * 4 * (2 * MODEL.layers + 1) * MODEL.dim : 0;
    several.forEach(({ stateBytes }, i) => {
      assertEquals(stateBytes, wholeBytes + (one.stateBytes - wholeBytes) / 2 ** (i + 1));
    });
  });

  Deno.test(`${name}: the ledger of four ranks holds what the formulas say`, async () => {
    for (const shard of await isSplit(name) ? ["none"] as const : ["none", "weights"] as const) {
      const train = trainConfig(64, shard);
      const expected = await onRanks(name, 4, (strategy) => estimateMemory(MODEL, train, strategy));
      const measured = await onRanks(name, 4, async (strategy, backend) => {
        using trainer = new Trainer({ backend, strategy, model: MODEL, train });
        await trainer.step([randomBatch(MODEL, 64)]);
        return { peakBytes: backend.ledger.peak().totalBytes, residentBytes: backend.ledger.liveBytes() };
      });
      assertEquals(measured, expected.map(({ peakBytes, residentBytes }) => ({ peakBytes, residentBytes })));
      for (const { peakBytes, residentBytes } of measured) assertLess(residentBytes, peakBytes);
    }
  });
}
