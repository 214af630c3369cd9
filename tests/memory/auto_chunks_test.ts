import { assertEquals, assertGreater, assertLess, assertLessOrEqual } from "@std/assert";
import {
  type Backend,
  chunkCounts,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  estimateMemory,
  MODEL_PRESETS,
  type ModelConfig,
  paperChunks,
  parseTrainConfig,
  type ProcessGroup,
  type SequenceStrategy,
  type TrainConfig,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";

type Create = (options: { backend: Backend; group: ProcessGroup }) => SequenceStrategy;

const SINGLE: Create = ({ backend }) => createSingleStrategy(backend);
const LENGTHS = [512, 4096, 12345, 32768, 65536, 131072];

/** The first of a number of ranks, which has at least as many tokens as any other. */
function firstRank(create: Create, ranks: number): SequenceStrategy {
  return create({ backend: createReferenceBackend(), group: createLoopbackGroups(ranks)[0] });
}

/** Peak bytes with the mini-sequences of `auto`, of the paper, and with one for all. */
function peaks(model: ModelConfig, train: TrainConfig, strategy: SequenceStrategy) {
  const peakOf = (chunks: Partial<TrainConfig>) => estimateMemory(model, { ...train, ...chunks }, strategy).peakBytes;
  const rows = chunkCounts(model, train, strategy).rows.reduce((sum, count) => sum + count, 0);
  return { auto: peakOf({}), paper: peakOf(paperChunks(model, rows)), whole: peakOf({ mlpChunks: 1, headChunks: 1 }) };
}

/** The largest ratio of the peak with `auto` to that with the paper's rule, over all lengths. */
function largestRatio(model: ModelConfig, settings: Record<string, unknown>, strategy: SequenceStrategy): number {
  return Math.max(...LENGTHS.map((seqTokens) => {
    const { auto, paper } = peaks(model, parseTrainConfig({ seqTokens, ...settings }), strategy);
    return auto / paper;
  }));
}

const STRATEGIES: Record<string, { ranks: number; create: Create }> = {
  single: { ranks: 1, create: SINGLE },
  ring: { ranks: 4, create: createRingStrategy },
  ulysses: { ranks: 4, create: createUlyssesStrategy },
  megatron: { ranks: 4, create: createMegatronStrategy },
};

for (const [name, { ranks, create }] of Object.entries(STRATEGIES)) {
  Deno.test(`${name}: longer mini-sequences than the paper's hardly raise the peak`, () => {
    const strategy = firstRank(create, ranks);
    // Four layers: nothing is taken beyond what attention's backward holds.
    assertLessOrEqual(largestRatio(MODEL_PRESETS.tiny, {}, strategy), 1);
    for (const model of Object.values(MODEL_PRESETS)) {
      // One input more for the inputs of eight layers, beside their states: 2.4% at most here.
      assertLessOrEqual(largestRatio(model, {}, strategy), 1.025);
    }
  });
}

Deno.test("where gradients live for a moment, those of the head, of which the rule does not know, cost a few percent", () => {
  const gpu = { precision: "mixed", optimizerInBackward: true, clipNorm: 0 };
  for (const model of Object.values(MODEL_PRESETS)) {
    for (const recompute of ["layer", "except-attention"]) {
      assertLessOrEqual(largestRatio(model, { ...gpu, recompute }, firstRank(SINGLE, 1)), 1.065);
    }
    assertLessOrEqual(largestRatio(model, { shard: "weights" }, firstRank(createRingStrategy, 4)), 1.08);
  }
});

Deno.test("mini-sequences too long are noticed: one for all rows raises the peak", () => {
  const { paper, whole } = peaks(MODEL_PRESETS["1b"], parseTrainConfig({ seqTokens: 32768 }), firstRank(SINGLE, 1));
  assertGreater(whole / paper, 1.3);
});

Deno.test("the smallest preset has several mini-sequences at a few hundred tokens a rank, and they save memory", () => {
  for (const [create, ranks, seqTokens] of [[SINGLE, 1, 512], [createRingStrategy, 2, 2048]] as const) {
    const strategy = firstRank(create, ranks);
    const train = parseTrainConfig({ seqTokens });
    const { mlpChunks, headChunks } = chunkCounts(MODEL_PRESETS.tiny, train, strategy);
    assertEquals([mlpChunks, headChunks], ranks === 1 ? [4, 3] : [8, 3]);
    const { auto, paper, whole } = peaks(MODEL_PRESETS.tiny, train, strategy);
    assertEquals(auto, paper);
    assertLess(auto, 0.95 * whole);
  }
});
