/** The estimate of updates in backward whose gradients are summed over ranks meanwhile. */

import { assertEquals, assertGreater } from "@std/assert";
import { createLoopbackGroups, createReferenceBackend, type ModelConfig, parseTrainConfig } from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { tinyModel } from "../_support/tiny_model.ts";
import { assertEstimate } from "./_estimate.ts";

const WIDE = { dim: 64, ffn: 100 };
const MIXED = { precision: "mixed" };
/** Moments in f32 that come from the host take more than gradients that travel as halves. */
const LARGE_MOMENTS = { ...MIXED, optimizerStates: "f32", offload: ["optimizer"] };

/** Models and settings that move the peak to every moment in which gradients of two groups are there. */
const CASES: Record<string, readonly [Partial<ModelConfig>, Record<string, unknown>]> = {
  "the head's travel beside the last block": [{ vocab: 300 }, { seqTokens: 24 }],
  "the head's travel beside the last block, mixed precision": [{ vocab: 300 }, { seqTokens: 24, ...MIXED }],
  "the head's travel beside the only block": [{ layers: 1 }, { recompute: "none", seqTokens: 9 }],
  "a block's travel beside another": [{ ...WIDE, vocab: 8 }, { seqTokens: 24 }],
  "a block's travel beside another, tied": [{ tiedEmbeddings: true, layers: 3 }, { recompute: "selective" }],
  "a block's travel beside another, tied, mixed precision": [
    { tiedEmbeddings: true, layers: 3 },
    { recompute: "except-attention", ...MIXED },
  ],
  "many blocks": [{ layers: 6, heads: 2, headDim: 2, ffn: 4, vocab: 8 }, { recompute: "none" }],
  "a block's travel beside the embedding's": [{ ...WIDE, layers: 1, vocab: 8 }, { seqTokens: 9 }],
  "the embedding's travel": [{ vocab: 1000, tiedEmbeddings: true }, { seqTokens: 4, headChunks: 4 }],
  "the head's begin to travel": [{ dim: 64, heads: 2, kvHeads: 1, headDim: 8, ffn: 4 }, {
    ...{ seqTokens: 300, headChunks: 50, mlpChunks: 50, recompute: "selective" },
  }],
  "moments of the head come from the host": [{ vocab: 300 }, { seqTokens: 4, offload: ["optimizer"] }],
  "moments of the embedding come from the host": [{ vocab: 300, tiedEmbeddings: true }, {
    ...{ seqTokens: 4, offload: ["optimizer"] },
  }],
  "moments of a block come from the host": [{ ...WIDE, vocab: 4 }, { seqTokens: 4, ...LARGE_MOMENTS }],
  "moments of the last block to be updated come from the host": [
    { ...WIDE, layers: 1 },
    { seqTokens: 4, ...LARGE_MOMENTS },
  ],
  "moments and checkpoints come from the host": [{ ...WIDE, layers: 4, vocab: 4 }, {
    ...{ seqTokens: 4, ...LARGE_MOMENTS, offload: ["optimizer", "checkpoints"], recompute: "layer" },
  }],
};

for (const [name, [values, settings]] of Object.entries(CASES)) {
  Deno.test(`the estimate equals the ledger where updates run in backward over ranks: ${name}`, async () => {
    const model = tinyModel(values);
    const update = { optimizerInBackward: true, clipNorm: 0 };
    const train = parseTrainConfig({ seqTokens: 24, mlpChunks: 3, ...update, ...settings });
    for (const ranks of [2, 3]) {
      await Promise.all(
        createLoopbackGroups(ranks).map(async (group) => {
          await using backend = createReferenceBackend();
          const strategy = createRingStrategy({ backend, group });
          await assertEstimate(backend, strategy, { model, train, steps: 1 });
          // All f32 gradients of a group of weights, and of no more than two.
          assertGreater(backend.ledger.highest().communication, 0);
          assertEquals(backend.ledger.live().gradients, 0);
          await group.close();
        }),
      );
    }
  });
}

Deno.test("the estimate equals the ledger where gradients are summed after backward", async () => {
  const model = tinyModel({ ...WIDE, vocab: 300 });
  for (const settings of [{}, MIXED, { accumulate: 2 }]) {
    const train = parseTrainConfig({ seqTokens: 4, recompute: "layer", ...settings });
    for (const ranks of [2, 3]) {
      await Promise.all(
        createLoopbackGroups(ranks).map(async (group) => {
          await using backend = createReferenceBackend();
          const strategy = createRingStrategy({ backend, group });
          const { moments } = await assertEstimate(backend, strategy, { model, train, steps: 1 });
          assertEquals(moments[0].moment, "optimizer");
          await group.close();
        }),
      );
    }
  }
});
