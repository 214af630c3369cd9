import { assertEquals } from "@std/assert";
import {
  type Backend,
  checkPrecision,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  estimateMemory,
  type ModelConfig,
  parseTrainConfig,
  type ProcessGroup,
  type SequenceStrategy,
  type TrainConfig,
  Trainer,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { strategyEntry } from "../../packages/bench/scenario.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";
import { assertEstimate } from "./_estimate.ts";

/** Shapes that move the peak to every moment of a step. */
const MODELS: Record<string, ModelConfig> = {
  "balanced": tinyModel(),
  "wide MLP": tinyModel({ ffn: 300 }),
  "large vocabulary": tinyModel({ vocab: 1000 }),
  "many heads": tinyModel({ heads: 24, kvHeads: 1, headDim: 8, layers: 1 }),
  "many heads, each with keys of its own": tinyModel({ heads: 24, kvHeads: 24, headDim: 8, layers: 1 }),
  "tied, one layer": tinyModel({ tiedEmbeddings: true, layers: 1, ffn: 8 }),
  "minute": tinyModel({ dim: 2, layers: 1, heads: 1, kvHeads: 1, headDim: 2, ffn: 2, vocab: 3 }),
  "deep": tinyModel({ layers: 6, heads: 2, kvHeads: 2, headDim: 2, ffn: 4, vocab: 8 }),
};

const RUNS: Record<string, Record<string, unknown>> = {
  "whole": { mlpChunks: 1, headChunks: 1 },
  "auto": {},
  "ragged": { mlpChunks: 7, headChunks: 5, batch: 3, seqTokens: 37 },
  "more slices than rows": { mlpChunks: 1000, headChunks: 1000, seqTokens: 9 },
  "a few tokens": { seqTokens: 3 },
  "packed documents": { packed: true, batch: 2, accumulate: 2, mlpChunks: 3, seqTokens: 19 },
  "two micro-batches": { accumulate: 2, mlpChunks: 3 },
  "sharded optimizer": { shard: "optimizer", mlpChunks: 3 },
  "sharded optimizer, a few tokens": { shard: "optimizer", seqTokens: 4 },
  "sharded gradients": { shard: "gradients", mlpChunks: 3 },
  "sharded weights": { shard: "weights", mlpChunks: 3 },
  "optimizer in backward": { optimizerInBackward: true, clipNorm: 0, mlpChunks: 3 },
  "only attention kept, whole": { recompute: "except-attention", mlpChunks: 1, headChunks: 1 },
  "only attention kept, ragged": {
    recompute: "except-attention",
    mlpChunks: 7,
    headChunks: 5,
    batch: 3,
    seqTokens: 37,
  },
  "only attention kept, packed, mixed precision": {
    ...{ recompute: "except-attention", precision: "mixed", packed: true, accumulate: 2, mlpChunks: 3, seqTokens: 19 },
  },
  "only attention kept, sharded weights, moments on the host": {
    ...{ recompute: "except-attention", shard: "weights", offload: ["optimizer"], mlpChunks: 3 },
  },
  "only attention kept, mixed precision, optimizer in backward": {
    ...{ recompute: "except-attention", precision: "mixed", optimizerInBackward: true, clipNorm: 0, mlpChunks: 3 },
  },
  "mixed precision": { precision: "mixed", mlpChunks: 3, accumulate: 2 },
  "mixed precision, optimizer in backward": {
    precision: "mixed",
    optimizerInBackward: true,
    clipNorm: 0,
    mlpChunks: 3,
  },
  "sharded weights, a few tokens, two micro-batches": { shard: "weights", seqTokens: 4, accumulate: 2 },
  "checkpoints on the host": { offload: ["checkpoints"], recompute: "layer", mlpChunks: 3, accumulate: 2 },
  "all offloaded, sharded weights": {
    ...{ offload: ["checkpoints", "optimizer"], recompute: "layer", shard: "weights", mlpChunks: 3 },
  },
  "all offloaded, optimizer in backward": {
    ...{ offload: ["checkpoints", "optimizer"], recompute: "layer", mlpChunks: 3 },
    ...{ optimizerInBackward: true, clipNorm: 0 },
  },
  "inputs of all but two blocks on the host": {
    ...{ offload: ["checkpoints"], deviceCheckpoints: 2, recompute: "layer", mlpChunks: 3 },
  },
  "optimizer on the host, a few tokens": { offload: ["optimizer"], recompute: "none", seqTokens: 4 },
  "optimizer on the host and in backward, a few tokens": {
    ...{ offload: ["optimizer"], recompute: "selective", seqTokens: 4, optimizerInBackward: true, clipNorm: 0 },
  },
};

/** Policies of runs that do not name theirs. */
const POLICIES = ["none", "selective", "layer"];

/** What a strategy is made of. */
interface StrategyContext {
  readonly backend: Backend;
  readonly group: ProcessGroup;
}

/** The most ranks, up to four, that the heads can be split over. */
function headRanks({ heads, kvHeads, ffn, vocab }: ModelConfig): number[] {
  const fits = (ranks: number) => heads % ranks === 0 && (kvHeads % ranks === 0 || ranks % kvHeads === 0);
  return [2, 4].filter((ranks) => fits(ranks) && ranks <= Math.min(ffn, vocab)).slice(-1);
}

/** Strategies and how many ranks each is tried on, one number, as every run is tried; ulysses has to divide the heads. */
const STRATEGIES = [
  {
    create: (context: StrategyContext) => createMegatronStrategy({ ...context, windowTokens: 10 }),
    ranks: headRanks,
    shards: ["none"],
  },
  { create: createRingStrategy, ranks: () => [3] },
  {
    create: createUlyssesStrategy,
    ranks: ({ heads }: ModelConfig) => [2, 4].filter((ranks) => heads % ranks === 0).slice(-1),
  },
  { create: createUsp, ranks: ({ heads }: ModelConfig) => [4].filter(() => heads % 2 === 0) },
];

function createUsp(context: StrategyContext): SequenceStrategy {
  return strategyEntry("usp").create({ ...context, placement: "zigzag", mesh: { ulysses: 2, ring: 2 } });
}

/** Whether a model of such dims can be trained in the precision of a run. */
function isServed(model: ModelConfig, train: TrainConfig, strategy: Parameters<typeof checkPrecision>[2]): boolean {
  try {
    checkPrecision(model, train, strategy);
    return true;
  } catch {
    return false;
  }
}

const peakMoments = new Set<string>();

for (const [name, model] of Object.entries(MODELS)) {
  const steps = name === "tied, one layer" ? 2 : 1; // what a step leaves behind does not depend on the shape

  Deno.test(`the estimate equals the ledger to the byte: ${name}`, async () => {
    for (const run of Object.values(RUNS)) {
      for (const recompute of run.recompute ? [run.recompute] : POLICIES) {
        const train = parseTrainConfig({ seqTokens: 24, ...run, recompute });
        if (!isServed(model, train, { name: "single", activations: ["f32", "f16"] })) continue;
        await using backend = createReferenceBackend();
        const estimate = await assertEstimate(backend, createSingleStrategy(backend), { model, train, steps });
        peakMoments.add(estimate.moments[0].moment);
        for (const { create, ranks, shards } of STRATEGIES) {
          if (shards && (!shards.includes(train.shard) || train.optimizerInBackward)) continue;
          for (const size of ranks(model).filter((size) => size <= train.seqTokens)) {
            await Promise.all(
              createLoopbackGroups(size).map(async (group) => {
                await using backend = createReferenceBackend();
                const strategy = create({ backend, group });
                if (!isServed(model, train, strategy)) return await group.close();
                const { moments } = await assertEstimate(backend, strategy, { model, train, steps });
                peakMoments.add(moments[0].moment);
                await group.close();
              }),
            );
          }
        }
      }
    }
  });
}

Deno.test("the estimate equals the ledger where the output of attention is got back from long windows", async () => {
  // Few heads, and mini-sequences of a row: nothing else takes as much as the rows of a window.
  const model = tinyModel({ dim: 32, heads: 2, kvHeads: 2, headDim: 2, ffn: 4, vocab: 8 });
  const train = parseTrainConfig({ seqTokens: 24, recompute: "except-attention", mlpChunks: 12, headChunks: 12 });
  await Promise.all(
    createLoopbackGroups(2).map(async (group) => {
      await using backend = createReferenceBackend();
      const strategy = createMegatronStrategy({ backend, group, windowTokens: 12 });
      const { moments } = await assertEstimate(backend, strategy, { model, train, steps: 1 });
      assertEquals(moments[0].moment, "mlp backward");
      await group.close();
    }),
  );
});

Deno.test("the models above move the peak to every moment that a formula stands for", () => {
  assertEquals([...peakMoments].sort(), [
    "attention backward",
    "attention forward",
    "head",
    "mlp backward",
    "optimizer",
  ]);
});

/** Peak bytes of one step, which has to be reached at the given moment. */
async function peakBytes(model: ModelConfig, run: Record<string, unknown>, moment: string): Promise<number> {
  const train = parseTrainConfig({ seqTokens: 64, ...run });
  await using backend = createReferenceBackend();
  const strategy = createSingleStrategy(backend);
  using trainer = new Trainer({ backend, strategy, model, train });
  await trainer.step([randomBatch(model, 64)]);
  assertEquals(estimateMemory(model, train, strategy).moments[0].moment, moment);
  return backend.ledger.peak().totalBytes;
}

Deno.test("mini-sequences divide the intermediates of the MLP by their number", async () => {
  const model = tinyModel({ ffn: 600, vocab: 8, layers: 1 });
  const whole = await peakBytes(model, { mlpChunks: 1 }, "mlp backward");
  const sliced = await peakBytes(model, { mlpChunks: 8 }, "mlp backward");
  const perRow = 4 * (1 + 3 * model.ffn); // rstd, gate, up and the gradient of the activation
  assertEquals(whole - sliced, (64 - 64 / 8) * perRow);
});

Deno.test("mini-sequences divide the logits by their number", async () => {
  const model = tinyModel({ vocab: 4000, layers: 1 });
  const whole = await peakBytes(model, { headChunks: 1 }, "head");
  const sliced = await peakBytes(model, { headChunks: 16 }, "head");
  const perRow = 4 * (1 + model.dim + model.vocab); // rstd, normed input, logits
  assertEquals(whole - sliced, (64 - 64 / 16) * perRow);
});

Deno.test("the estimate notices a tensor that is not accounted for", async () => {
  const model = tinyModel();
  const train = parseTrainConfig({ seqTokens: 24 });
  await using backend = createReferenceBackend();
  const strategy = createSingleStrategy(backend);
  const { peakBytes } = estimateMemory(model, train, strategy);
  using _forgotten = backend.empty([1], "scratch");
  using trainer = new Trainer({ backend, strategy, model, train });
  await trainer.step([randomBatch(model, 24)]);
  assertEquals(backend.ledger.peak().totalBytes, peakBytes + 4);
});
