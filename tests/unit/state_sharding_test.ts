import { assertEquals, assertGreater, assertLess } from "@std/assert";
import {
  type Backend,
  createAdamW,
  createLoopbackGroups,
  createReferenceBackend,
  createReplicatedWeights,
  createSingleStrategy,
  createStateSharding,
  elementCount,
  ExchangeClock,
  type Parameter,
  parameterCount,
  parameterSpecs,
  parseTrainConfig,
  type ProcessGroup,
  segmentBounds,
  type SequenceStrategy,
  type Shape,
  SHARD_STAGES,
  type ShardStage,
  type StepReport,
  tensorFrom,
  Trainer,
  zeros,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { assertClose } from "../_support/compare.ts";
import { Random } from "../_support/random.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

/** Ragged in 2, 3 and 5 segments, some of fewer elements than ranks. */
const SHAPES: readonly Shape[] = [[1], [3], [7, 5], [4], [2, 1], [13, 11]];

const STEPS = 10;

/** Ten updates of weights from gradients that differ between ranks and steps; weights and norms of this rank. */
async function update(backend: Backend, group: ProcessGroup, shard: ShardStage, clipNorm: number) {
  const strategy: SequenceStrategy = {
    ...createSingleStrategy(backend),
    ...createReplicatedWeights(backend, group, new ExchangeClock()),
  };
  const initial = new Random(7);
  const parameters = SHAPES.map((shape, i) => ({
    name: `p${i}`,
    value: tensorFrom(backend, initial.normals(elementCount(shape)), shape, "weights"),
    gradient: zeros(backend, shape, "gradients"),
  })) satisfies Parameter[];
  const optimizer = createAdamW(backend, parameters, createStateSharding(backend, strategy, shard));
  const optimizerBytes = backend.ledger.liveBytes("optimizer");
  const random = new Random(100 + group.rank);
  const norms = [];
  for (let step = 1; step <= STEPS; step++) {
    for (const { gradient } of parameters) backend.write(gradient, random.normals(gradient.size));
    await optimizer.reduceGradients();
    const options = { learningRate: 0.05, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, step };
    using clip = await optimizer.step(options, clipNorm);
    norms.push(await backend.read(clip));
    for (const gradient of await backend.readAll(parameters.map(({ gradient }) => gradient))) {
      assertEquals(gradient.every((value) => value === 0), true, "gradients are zeroed whole");
    }
  }
  const weights = await backend.readAll(parameters.map(({ value }) => value));
  optimizer.free();
  parameters.forEach(({ value, gradient }) => [value, gradient].forEach((tensor) => tensor.free()));
  assertEquals(backend.ledger.liveBytes(), 0);
  return { weights, norms, optimizerBytes };
}

async function updateOnRanks(ranks: number, shard: ShardStage, clipNorm: number) {
  return await Promise.all(
    createLoopbackGroups(ranks).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const result = await update(backend, group, shard, clipNorm);
      await group.close();
      return result;
    }),
  );
}

for (const ranks of [1, 2, 3, 5]) {
  Deno.test(`sharded updates are those of whole states, on ${ranks} ranks`, async () => {
    for (const clipNorm of [0, 0.5]) {
      const [whole] = await updateOnRanks(ranks, "none", clipNorm);
      const sharded = await updateOnRanks(ranks, "optimizer", clipNorm);
      for (const [rank, { weights, norms }] of sharded.entries()) {
        const what = `rank ${rank} of ${ranks}, clip ${clipNorm}`;
        assertEquals([weights, norms], [sharded[0].weights, sharded[0].norms], `the same to the bit: ${what}`);
        norms.forEach(([norm, factor], step) => {
          assertGreater(norm, 1);
          if (clipNorm > 0) assertLess(factor, 1);
          // The squares are summed in another order.
          assertClose([norm, factor], whole.norms[step], { relative: 1e-6, what: `norm and factor: ${what}` });
        });
        // Weights of about 1 in f32, after ten roundings.
        weights.forEach((weight, i) => assertClose(weight, whole.weights[i], { absolute: 1e-5, what }));
      }
      const bytes = sharded.map(({ optimizerBytes }) => optimizerBytes);
      assertEquals(
        bytes,
        sharded.map((_, rank) =>
          SHAPES.reduce((sum, shape) => {
            const { start, end } = segmentBounds(elementCount(shape), ranks, rank);
            return sum + 8 * (end - start);
          }, 0)
        ),
      );
      assertEquals(
        bytes.reduce((sum, each) => sum + each),
        whole.optimizerBytes,
        "together they hold every moment once",
      );
    }
  });
}

/** Reports of ten steps, and gradients and logits after them, of every rank. */
async function train(
  create: (options: { backend: Backend; group: ProcessGroup }) => SequenceStrategy,
  ranks: number,
  values: { shard: ShardStage; clipNorm: number },
) {
  const config = parseTrainConfig({ seqTokens: 23, accumulate: 2, learningRate: 0.01, steps: STEPS, ...values });
  const batches = (step: number) => [1, 2].map((i) => randomBatch(TIED, 23, { seed: 2 * step + i, ignored: 0.2 }));
  return await Promise.all(
    createLoopbackGroups(ranks).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      using trainer = new Trainer({ backend, strategy: create({ backend, group }), model: TIED, train: config });
      const reports: StepReport[] = [];
      for (let step = 0; step < STEPS; step++) reports.push(await trainer.step(batches(step)));
      const { gradients } = await trainer.gradients(batches(STEPS));
      await group.close();
      return { reports, gradients };
    }),
  );
}

/** An odd width, so that segments start anywhere. */
const TIED = tinyModel({ tiedEmbeddings: true, dim: 15, vocab: 41, ffn: 7, heads: 15, kvHeads: 15, headDim: 2 });

for (
  const { name, create, counts } of [
    { name: "ring", create: createRingStrategy, counts: [1, 2, 3, 5] },
    { name: "ulysses", create: createUlyssesStrategy, counts: [3, 5] },
  ]
) {
  Deno.test(`${name} trains with sharded states as with whole ones, for the same bytes and 8 a peer`, async () => {
    for (const ranks of counts) {
      for (const clipNorm of [0, 0.1]) {
        const [whole, sharded] = await Promise.all(
          SHARD_STAGES.map((shard) => train(create, ranks, { shard, clipNorm })),
        );
        for (const [rank, { reports, gradients }] of sharded.entries()) {
          const what = `rank ${rank} of ${ranks}, clip ${clipNorm}`;
          for (const [step, report] of reports.entries()) {
            const { loss, gradNorm, bytesSent } = whole[rank].reports[step];
            // The norm's squares are summed in another order; AdamW takes out the scale of gradients again.
            assertClose([report.loss], [loss], { relative: 1e-6, what: `loss of step ${step + 1}: ${what}` });
            assertClose([report.gradNorm], [gradNorm], { relative: 1e-5, what: `norm of step ${step + 1}: ${what}` });
            assertEquals(report.bytesSent, bytesSent + 8 * (ranks - 1), `bytes sent: ${what}`);
            assertEquals([report.loss, report.gradNorm], [
              sharded[0].reports[step].loss,
              sharded[0].reports[step].gradNorm,
            ]);
          }
          assertEquals(gradients, sharded[0].gradients, "weights, and so gradients, are the same to the bit");
          for (const [weight, expected] of whole[rank].gradients) {
            const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
            // As the conformance suite: f32 sums in another order.
            assertClose(gradients.get(weight)!, expected, { absolute: 1e-5 * largest, what: `${weight}: ${what}` });
          }
        }
        assertGreater(new Set(sharded[0].reports.map(({ loss }) => loss)).size, STEPS - 1, "the steps differ");
      }
    }
  });
}

Deno.test("a rank keeps its part of the moments, and all of weights and gradients", async () => {
  const sizes = parameterSpecs(TIED).map(({ shape }) => elementCount(shape));
  const kept = await Promise.all(
    createLoopbackGroups(3).map(async (group) => {
      await using backend = createReferenceBackend();
      const config = parseTrainConfig({ seqTokens: 23, shard: "optimizer" });
      const strategy = createRingStrategy({ backend, group });
      using trainer = new Trainer({ backend, strategy, model: TIED, train: config });
      await trainer.step([randomBatch(TIED, 23)]);
      const { weights, gradients, optimizer } = backend.ledger.live();
      await group.close();
      assertEquals([weights, gradients], [4 * parameterCount(TIED), 4 * parameterCount(TIED)]);
      return optimizer;
    }),
  );
  assertEquals(kept.reduce((sum, bytes) => sum + bytes), 8 * parameterCount(TIED));
  // Longer segments come first.
  assertEquals(kept, [2, 1, 0].map((more) => 8 * sizes.reduce((sum, size) => sum + Math.floor((size + more) / 3), 0)));
});
