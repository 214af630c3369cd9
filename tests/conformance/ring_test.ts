import { assertEquals, assertThrows } from "@std/assert";
import {
  contiguousPartition,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  elementCount,
  type GradientReport,
  type ModelConfig,
  parameterSpecs,
  parseTrainConfig,
  segmentBounds,
  type SequenceStrategy,
  type StepReport,
  type TokenBatch,
  type TrainConfig,
  Trainer,
  UnsupportedTopologyError,
  zigZagPartition,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { assertClose } from "../_support/compare.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

type Placement = "zigzag" | "contiguous";

/** Runs `body` on every rank of a loopback ring. */
async function onRing<T>(
  ranks: number,
  placement: Placement,
  model: ModelConfig,
  train: TrainConfig,
  body: (trainer: Trainer, strategy: SequenceStrategy) => Promise<T>,
): Promise<T[]> {
  return await Promise.all(
    createLoopbackGroups(ranks).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const strategy = createRingStrategy({ backend, group, placement });
      using trainer = new Trainer({ backend, strategy, model, train });
      const result = await body(trainer, strategy);
      await group.close();
      return result;
    }),
  );
}

async function single(model: ModelConfig, train: TrainConfig, batches: TokenBatch[]): Promise<GradientReport> {
  await using backend = createReferenceBackend({ poison: true });
  using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train });
  return await trainer.gradients(batches);
}

const SHAPES: Record<string, { model?: Partial<ModelConfig>; seqTokens: number; batch?: number }> = {
  "ragged": { seqTokens: 37 },
  "as many tokens as ranks": { seqTokens: 5 },
  "fewer tokens than half blocks": { seqTokens: 7, batch: 2 },
  "multi-query, batches": { model: { kvHeads: 1 }, seqTokens: 26, batch: 3 },
  "multi-head, tied": { model: { kvHeads: 4, tiedEmbeddings: true }, seqTokens: 33 },
};

for (const [name, { model: values, seqTokens, batch }] of Object.entries(SHAPES)) {
  for (const placement of ["zigzag", "contiguous"] as const) {
    Deno.test(`a ring computes what one rank computes: ${name}, ${placement}`, async () => {
      const model = tinyModel(values);
      const train = parseTrainConfig({ seqTokens, batch, accumulate: 2 });
      const batches = [1, 2].map((seed) => randomBatch(model, seqTokens, { batch, seed, ignored: 0.3 }));
      const whole = await single(model, train, batches);
      for (const ranks of [1, 2, 3, 4, 5]) {
        const reports = await onRing(ranks, placement, model, train, (trainer) => trainer.gradients(batches));
        for (const { loss, gradients } of reports) {
          assertClose([loss], [whole.loss], { relative: 1e-6, what: `loss over ${ranks} ranks` });
          for (const [weight, expected] of whole.gradients) {
            // f32 sums in another order: 1e-5 of the largest gradient of the weight
            const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
            assertClose(gradients.get(weight)!, expected, {
              absolute: 1e-5 * largest,
              what: `${weight} over ${ranks} ranks`,
              rejectAllZero: true,
            });
          }
          assertEquals(gradients, reports[0].gradients, "gradients are the same to the bit on every rank");
        }
      }
    });
  }
}

Deno.test("ranks send exactly the bytes that the formulas say", async () => {
  const model = tinyModel();
  for (const recompute of ["none", "layer"] as const) {
    const train = parseTrainConfig({ seqTokens: 29, batch: 2, accumulate: 3, recompute });
    for (const ranks of [1, 2, 3, 4]) {
      const batches = [1, 2, 3].map((seed) => randomBatch(model, 29, { batch: 2, seed }));
      const reports = await onRing<StepReport>(ranks, "zigzag", model, train, (trainer) => trainer.step(batches));
      reports.forEach((report, rank) => {
        assertEquals(
          report.bytesSent,
          bytesOfStep(model, train, ranks, rank),
          `rank ${rank} of ${ranks}, ${recompute}`,
        );
      });
    }
  }
});

function bytesOfStep(model: ModelConfig, train: TrainConfig, ranks: number, rank: number): number {
  if (ranks === 1) return 0;
  const { positions } = zigZagPartition(train.seqTokens, ranks);
  const pairBytes = positions.map((block) => 2 * 4 * train.batch * block.length * model.kvHeads * model.headDim);
  const all = pairBytes.reduce((sum, bytes) => sum + bytes, 0);
  const keys = all - pairBytes[(rank + 1) % ranks]; // every block but the one that the next rank owns
  const keyPasses = train.recompute === "layer" ? 3 : 2; // forward, forward again, backward
  const attention = train.accumulate * model.layers * (keyPasses * keys + all);
  const gradients = parameterSpecs(model).reduce((sum, { shape }) => {
    const segment = (i: number) => {
      const { start, end } = segmentBounds(elementCount(shape), ranks, (i + 2 * ranks) % ranks);
      return 4 * (end - start);
    };
    const whole = 4 * elementCount(shape);
    return sum + (whole - segment(rank)) + (whole - segment(rank + 1)); // reduce-scatter, all-gather
  }, 0);
  return attention + gradients;
}

Deno.test("partitions give every position to one rank, in ascending order, evenly", () => {
  for (const split of [zigZagPartition, contiguousPartition]) {
    for (const [seqTokens, ranks] of [[1, 1], [5, 5], [7, 4], [64, 3], [257, 8]]) {
      const { positions } = split(seqTokens, ranks);
      const all = positions.flatMap((block) => [...block]);
      assertEquals(all.toSorted((a, b) => a - b), Array.from({ length: seqTokens }, (_, i) => i));
      for (const block of positions) assertEquals([...block], [...block].sort((a, b) => a - b));
      const lengths = positions.map((block) => block.length);
      assertEquals(Math.max(...lengths) - Math.min(...lengths) <= (split === zigZagPartition ? 2 : 1), true);
      assertEquals(Math.min(...lengths) > 0, true);
    }
  }
});

Deno.test("zig-zag gives every rank the same number of query-key pairs, contiguous does not", () => {
  const pairs = (positions: readonly Uint32Array[]) =>
    positions.map((block) => block.reduce((sum, position) => sum + position + 1, 0));
  const [low, high] = [Math.min, Math.max].map((pick) => pick(...pairs(zigZagPartition(1024, 4).positions)));
  assertEquals(high, low);
  const uneven = pairs(contiguousPartition(1024, 4).positions);
  assertEquals(Math.max(...uneven) > 6 * Math.min(...uneven), true);
});

Deno.test("a sequence shorter than the ring is refused with the numbers", async () => {
  const [group] = createLoopbackGroups(4);
  await using backend = createReferenceBackend();
  const strategy = createRingStrategy({ backend, group });
  assertThrows(
    () => strategy.partition(3),
    UnsupportedTopologyError,
    "Cannot split 3 tokens across 4 ranks: every rank needs at least one token",
  );
});
