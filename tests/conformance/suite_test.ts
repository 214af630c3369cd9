/** The suite must notice what it is there to notice. */

import { assertRejects } from "@std/assert";
import {
  createReferenceBackend,
  createReplicatedWeights,
  createSingleStrategy,
  ExchangeClock,
  type SequenceStrategy,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { assertAttentionMemory } from "./_attention_memory.ts";
import { assertSameGradients, assertSameTraining, assertTraffic, type StrategyCase } from "./_conformance.ts";
import { SHAPES } from "./_shapes.ts";

/** Every rank computes the whole sequence by itself, so that sums over two ranks are twice what they should be. */
const repeated: StrategyCase = {
  name: "repeated",
  create: ({ backend, group }) => ({
    ...createSingleStrategy(backend),
    ...createReplicatedWeights(backend, group, new ExchangeClock()),
    partition(seqTokens: number) {
      const [all] = createSingleStrategy(backend).partition(seqTokens).positions;
      return { seqTokens, positions: Array.from({ length: group.size }, () => all) };
    },
  }),
  traffic: () => ({ forward: 0, backward: 0 }),
  skips: [],
};

Deno.test("wrong gradients are noticed", async () => {
  await assertSameGradients(repeated, SHAPES.ragged, 1);
  await assertRejects(() => assertSameGradients(repeated, SHAPES.ragged, 2), Error, "loss over 2 ranks");
});

Deno.test("attention across documents is noticed", async () => {
  const blind: StrategyCase = {
    ...repeated,
    create: (options) => {
      const strategy = repeated.create(options);
      return { ...strategy, attention: (shape, partition) => strategy.attention(shape, partition) };
    },
  };
  await assertSameGradients(repeated, SHAPES["packed documents"], 1);
  await assertRejects(() => assertSameGradients(blind, SHAPES["packed documents"], 1), Error, "loss over 1 ranks");
});

Deno.test("gradients that differ between ranks are noticed", async () => {
  const uneven: StrategyCase = {
    ...repeated,
    create: ({ backend, group }) => ({
      ...repeated.create({ backend, group }),
      sumOverRanks: (values) => Promise.resolve([...values]),
      // Within the tolerance, but not the same bits.
      reduceGradients([gradient]) {
        if (group.rank === 1) backend.ops.scale(gradient, 1 + 2 ** -22);
        return Promise.resolve();
      },
    }),
  };
  await assertRejects(() => assertSameGradients(uneven, SHAPES.ragged, 2), Error, "same to the bit on every rank");
});

Deno.test("states that lose a rank's terms, or an update, are noticed", async () => {
  const ring: StrategyCase = { ...repeated, create: createRingStrategy };
  const shape = SHAPES["multi-query, batches"];
  const forgetful: StrategyCase = {
    ...ring,
    create: (options) => ({
      ...ring.create(options),
      reduceScatter: async (parts) => void await parts,
    }),
  };
  await assertSameGradients(ring, shape, 2, { shard: "weights" });
  await assertRejects(() => assertSameGradients(forgetful, shape, 2, { shard: "weights" }), Error, "over 2 ranks");
  const stale: StrategyCase = {
    ...ring,
    create(options) {
      const strategy = ring.create(options);
      const first = new Map<number, Float32Array>();
      return {
        ...strategy,
        allGather(values) {
          if (!first.has(values.length)) first.set(values.length, values.slice());
          return strategy.allGather(first.get(values.length)!);
        },
      };
    },
  };
  const alone: StrategyCase = {
    ...ring,
    create: (options) => ({
      ...ring.create(options),
      beginReduction: () => ({ finish: () => Promise.resolve(), free: () => {} }),
    }),
  };
  const inBackward = { optimizerInBackward: true, clipNorm: 0 };
  await assertRejects(() => assertSameTraining(alone, shape, 2, inBackward), Error, "losses over 2 ranks");
  await assertRejects(() => assertSameTraining(stale, shape, 2, { shard: "weights" }), Error, "losses over 2 ranks");
});

Deno.test("a byte that no formula has is noticed", async () => {
  await assertTraffic(repeated, SHAPES.ragged, 2);
  const silent = { ...repeated, traffic: () => ({ forward: 0, backward: 1 }) };
  await assertRejects(() => assertTraffic(silent, SHAPES.ragged, 2), Error, "bytes that rank 0 of 2 sends");
});

const MEMORY_FIELDS = [
  "heldBytes",
  "savedBytes",
  "keptBytes",
  "forwardBytes",
  "rematerializeBytes",
  "backwardBytes",
] as const;

Deno.test("an element that no formula has is noticed", async () => {
  for (const field of MEMORY_FIELDS) {
    await using backend = createReferenceBackend();
    const strategy = createSingleStrategy(backend);
    await assertAttentionMemory(backend, strategy, SHAPES.ragged);
    const wrong: SequenceStrategy = {
      ...strategy,
      attentionMemory(...args) {
        const memory = strategy.attentionMemory(...args);
        return { ...memory, [field]: memory[field] + 4 };
      },
    };
    await assertRejects(() => assertAttentionMemory(backend, wrong, SHAPES.ragged), Error, "rank 0 of 1");
  }
});
