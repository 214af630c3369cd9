import { assertEquals, assertGreater, assertLess, assertRejects, assertThrows } from "@std/assert";
import {
  type Backend,
  createAdamW,
  createLoopbackGroups,
  createModelStates,
  createReferenceBackend,
  createReplicatedWeights,
  createSingleStrategy,
  elementCount,
  ExchangeClock,
  pairedSegment,
  parameterCount,
  parameterSpecs,
  parseTrainConfig,
  type ProcessGroup,
  type SequenceStrategy,
  type Shape,
  SHARD_STAGES,
  type ShardStage,
  type StepReport,
  tensorFrom,
  Trainer,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { assertClose } from "../_support/compare.ts";
import { Random } from "../_support/random.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

/** Ragged in 2, 3 and 5 segments, some of fewer elements than ranks. */
const SHAPES: readonly Shape[] = [[1], [3], [7, 5], [4], [2, 1], [13, 11]];

const STEPS = 10;
const SHARDED = SHARD_STAGES.filter((shard) => shard !== "none");

/** Ten updates of weights from gradients that differ between ranks and micro-batches; weights and norms of this rank. */
async function update(backend: Backend, group: ProcessGroup, shard: ShardStage, clipNorm: number) {
  const strategy: SequenceStrategy = {
    ...createSingleStrategy(backend),
    ...createReplicatedWeights(backend, group, new ExchangeClock()),
  };
  const states = createModelStates(backend, strategy, { shard });
  const initial = new Random(7);
  const parameters = SHAPES.map((shape, i) => {
    const values = initial.normals(elementCount(shape));
    return states.create(`p${i}`, shape, {
      initialize: (target, { start }) => backend.write(target, values.subarray(start, start + target.size)),
    });
  });
  // One parameter is in two groups, as tied embeddings are.
  const groups = [parameters, parameters.slice(2, 3)].map((members) => ({ members, ...states.group(members) }));
  const optimizer = createAdamW(backend, states);
  const { weights: weightBytes, gradients: gradientBytes, optimizer: optimizerBytes } = backend.ledger.live();
  const random = new Random(100 + group.rank);
  const norms = [];
  for (let step = 1; step <= STEPS; step++) {
    for (const { members, withGradients } of [...groups, ...groups]) {
      await withGradients(async () => {
        for (const { gradient } of members) {
          using added = tensorFrom(backend, random.normals(gradient!.size), gradient!.shape, "scratch");
          backend.ops.add(added, gradient!);
        }
        await backend.sync();
      });
    }
    await states.reduceGradients();
    const options = { learningRate: 0.05, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, step };
    using clip = await optimizer.step(options, clipNorm);
    norms.push(await backend.read(clip));
  }
  const weights = await groups[0].withWeights(() => backend.readAll(parameters.map(({ value }) => value)));
  for (const gradient of (await states.takeGradients()).values()) {
    assertEquals(gradient.every((value) => value === 0), true, "gradients start from zero after a step");
  }
  optimizer.free();
  states.free();
  assertEquals(backend.ledger.liveBytes(), 0);
  return { weights, norms, bytes: [weightBytes, gradientBytes, optimizerBytes] };
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
      for (const shard of SHARDED) {
        const sharded = await updateOnRanks(ranks, shard, clipNorm);
        for (const [rank, { weights, norms }] of sharded.entries()) {
          const what = `${shard}, rank ${rank} of ${ranks}, clip ${clipNorm}`;
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
        const elements = SHAPES.map(elementCount);
        const all = elements.reduce((sum, each) => sum + each);
        for (const [rank, { bytes }] of sharded.entries()) {
          const own = elements.reduce((sum, size) => {
            const { start, end } = pairedSegment(size, ranks, rank);
            return sum + end - start;
          }, 0);
          const stage = SHARD_STAGES.indexOf(shard);
          assertEquals(bytes, [4 * (stage < 3 ? all : own), 4 * (stage < 2 ? all : own), 8 * own]);
        }
      }
    }
  });
}

Deno.test("weights and gradients that ranks hold segments of are refused outside their group", async () => {
  await Promise.all(
    createLoopbackGroups(2).map(async (group) => {
      await using backend = createReferenceBackend();
      const states = createModelStates(backend, createRingStrategy({ backend, group }), { shard: "weights" });
      const parameter = states.create("p", [3], { initialize: (target) => backend.ops.fill(target, 1) });
      const frozen = states.create("q", [3], { initialize: (target) => backend.ops.fill(target, 1), frozen: true });
      const { withWeights, withGradients } = states.group([parameter, frozen]);
      const assertClosed = () => {
        for (
          const [use, what] of [[() => parameter.value, "weights"], [() => parameter.gradient, "gradients"]] as const
        ) {
          assertThrows(
            use,
            ReferenceError,
            `Cannot use the ${what} of p: ranks hold segments of it, its group must be gathered`,
          );
        }
        assertEquals(frozen.gradient, undefined);
      };
      assertClosed();
      await withWeights(() =>
        withGradients(async () => {
          assertEquals([...await backend.read(parameter.value), ...await backend.read(parameter.gradient!)], [
            ...[1, 1, 1],
            ...[0, 0, 0],
          ]);
        })
      );
      assertClosed();
      const failing = () => Promise.reject(new Error("out of order"));
      await assertRejects(() => withWeights(() => withGradients(failing)), Error, "out of order");
      assertClosed();
      states.free();
      assertEquals(backend.ledger.liveBytes(), 0);
      await group.close();
    }),
  );
});

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
    { name: "ring", create: createRingStrategy, counts: [1, 2, 3] },
    { name: "ulysses", create: createUlyssesStrategy, counts: [3] },
  ]
) {
  Deno.test(`${name} trains with sharded states as with whole ones`, async () => {
    for (const ranks of counts) {
      const clipNorm = 0.1;
      const whole = await train(create, ranks, { shard: "none", clipNorm });
      for (const shard of SHARDED) {
        const sharded = await train(create, ranks, { shard, clipNorm });
        for (const [rank, { reports, gradients }] of sharded.entries()) {
          const what = `${shard}, rank ${rank} of ${ranks}`;
          for (const [step, report] of reports.entries()) {
            const { loss, gradNorm } = whole[rank].reports[step];
            // The norm's squares are summed in another order; AdamW takes out the scale of gradients again.
            assertClose([report.loss], [loss], { relative: 1e-6, what: `loss of step ${step + 1}: ${what}` });
            assertClose([report.gradNorm], [gradNorm], { relative: 1e-5, what: `norm of step ${step + 1}: ${what}` });
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

Deno.test("states of a model fall with the ranks, each from its stage on", async () => {
  const sizes = parameterSpecs(TIED).map(({ shape }) => elementCount(shape));
  const all = parameterCount(TIED);
  // Longer segments come first.
  const own = [2, 1, 0].map((more) => sizes.reduce((sum, size) => sum + Math.floor((size + more) / 3), 0));
  assertEquals(own.reduce((sum, elements) => sum + elements), all);
  for (const [stage, shard] of SHARD_STAGES.entries()) {
    const kept = await Promise.all(
      createLoopbackGroups(3).map(async (group) => {
        await using backend = createReferenceBackend();
        const config = parseTrainConfig({ seqTokens: 23, shard });
        const strategy = createRingStrategy({ backend, group });
        using trainer = new Trainer({ backend, strategy, model: TIED, train: config });
        await trainer.step([randomBatch(TIED, 23)]);
        const { weights, gradients, optimizer } = backend.ledger.live();
        await group.close();
        return { weights, gradients, optimizer };
      }),
    );
    const of = (rank: number, isDivided: boolean) => isDivided ? own[rank] : all;
    assertEquals(
      kept,
      own.map((_, rank) => ({
        weights: 4 * of(rank, stage >= 3),
        gradients: 4 * of(rank, stage >= 2),
        optimizer: 8 * of(rank, stage >= 1),
      })),
      shard,
    );
  }
});
