/** Megatron-LM's tensor and sequence parallelism through the suite that every strategy passes. */

import {
  elementCount,
  pairedSegment,
  parameterSpecs,
  segmentBounds,
  type SequenceStrategy,
  type Shape,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import {
  assertSameGradients,
  assertTraffic,
  type AttentionTraffic,
  type StepRun,
  type StrategyCase,
  testStrategy,
} from "../conformance/_conformance.ts";
import { type ConformanceShape, FIFTEEN_HEADS, FOUR_HEADS, SHAPES } from "../conformance/_shapes.ts";

const megatron: StrategyCase = {
  name: "megatron",
  create: createMegatronStrategy,
  traffic: attentionTraffic,
  otherTraffic,
  shards: ["none"],
  skips: [
    {
      shapes: FOUR_HEADS,
      ranks: [3, 5],
      reason: "Cannot split 4 heads across R ranks: heads must be a multiple of the ranks",
    },
    {
      shapes: FIFTEEN_HEADS,
      ranks: [2, 4],
      reason: "Cannot split 15 heads across R ranks: heads must be a multiple of the ranks",
    },
    {
      shapes: ["fifteen heads in groups of five"],
      ranks: [5],
      reason: "Cannot split 3 kv heads across R ranks: " +
        "kv heads must be a multiple of the ranks, or the ranks a multiple of the kv heads",
    },
  ],
};

testStrategy(megatron);

Deno.test("megatron computes the same in windows of any length", async () => {
  for (const windowTokens of [1, 10]) {
    const windowed: StrategyCase = {
      ...megatron,
      create: (options) => createMegatronStrategy({ ...options, windowTokens }),
    };
    await assertSameGradients(windowed, SHAPES["packed documents"], 4);
    await assertTraffic(windowed, SHAPES["multi-query, batches"], 2);
  }
});

/** Bytes that a rank sends to gather rows of all, and for their rows of a sum. */
function rowTraffic(
  { model, seqTokens, batch }: ConformanceShape,
  { rank, ranks, partition }: SequenceStrategy,
): { gather: number; scatter: number } {
  const own = batch * partition(seqTokens).positions[rank].length;
  const row = 4 * model.dim;
  return { gather: (ranks - 1) * own * row, scatter: (batch * seqTokens - own) * row };
}

/** Before the projections of q, k, v and behind that of the output; in backward the normed input is gathered again. */
function attentionTraffic(shape: ConformanceShape, strategy: SequenceStrategy): AttentionTraffic {
  const { gather, scatter } = rowTraffic(shape, strategy);
  return { forward: gather + scatter, backward: 2 * gather + scatter, rematerialization: gather + scatter };
}

/** MLP, embedding, head, and the gradients that several ranks have. */
function otherTraffic({ model, train, batches }: StepRun, strategy: SequenceStrategy): number {
  const { rank, ranks, partition } = strategy;
  const { seqTokens, batch } = train;
  const { gather, scatter } = rowTraffic({ model, seqTokens, batch }, strategy);
  const recomputed = train.recompute === "none" ? 0 : gather;
  const mlp = model.layers * (3 * gather + 2 * scatter + recomputed);
  const sums = (ranks - 1) * batch * seqTokens * 2 * 4; // log-sum-exp and logit at the label of every row
  const head = gather + sums + scatter;

  const owner = new Array<number>(seqTokens);
  partition(seqTokens).positions.forEach((positions, r) => positions.forEach((position) => owner[position] = r));
  const holder = (id: number) =>
    Array.from({ length: ranks }, (_, r) => r).find((r) => id < segmentBounds(model.vocab, ranks, r).end);
  const embedding = batches.reduce((sum, { inputs }) => {
    // Rows of the own part for others' tokens, and gradients of own tokens for others' parts.
    const crossing = [...inputs].filter((id, row) => (holder(id) === rank) !== (owner[row % seqTokens] === rank));
    return sum + crossing.length * 4 * model.dim;
  }, 0);

  return train.accumulate * (mlp + head) + embedding + sharedTraffic(model, strategy);
}

/** Ring all-reduces of norms over all ranks and of kv heads over those that share them, and the squared norm. */
function sharedTraffic(model: StepRun["model"], { rank, ranks }: SequenceStrategy): number {
  const copies = Math.max(1, ranks / model.kvHeads);
  const allReduce = (shape: Shape, size: number) => {
    const segment = (index: number) => {
      const { start, end } = pairedSegment(elementCount(shape), size, index % size);
      return end - start;
    };
    const own = rank % size;
    return 4 * (2 * elementCount(shape) - segment(own) - segment(own + 1));
  };
  const gradients = parameterSpecs(model).reduce((sum, { name, shape }) => {
    if (shape.length === 1) return sum + allReduce(shape, ranks);
    if (/[kv]_proj/.test(name) && copies > 1) return sum + allReduce([model.headDim, model.dim], copies);
    return sum;
  }, 0);
  return gradients + 8 * (ranks - 1);
}
