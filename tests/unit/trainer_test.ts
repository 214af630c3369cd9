import { assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  IGNORED_LABEL,
  learningRateAt,
  parseTrainConfig,
  type TokenBatch,
  Trainer,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { assertClose } from "../_support/compare.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

const model = tinyModel();

async function trainSingle(values: Record<string, unknown>, steps: TokenBatch[][]) {
  await using backend = createReferenceBackend({ poison: true });
  const train = parseTrainConfig({ seqTokens: 16, ...values });
  using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train });
  const reports = [];
  for (const batches of steps) reports.push(await trainer.step(batches));
  return reports;
}

Deno.test("the learning rate warms up, then follows half a cosine down to its minimum", () => {
  const train = parseTrainConfig({ learningRate: 1, minLearningRate: 0.1, warmupSteps: 4, steps: 14 });
  assertEquals([1, 2, 4].map((step) => learningRateAt(step, train)), [0.25, 0.5, 1]);
  assertAlmostEquals(learningRateAt(9, train), 0.55, 1e-12);
  assertAlmostEquals(learningRateAt(14, train), 0.1, 1e-12);
  assertAlmostEquals(learningRateAt(20, train), 0.1, 1e-12);
  const constant = parseTrainConfig({ learningRate: 1, schedule: "constant", warmupSteps: 0, steps: 3 });
  assertEquals([1, 2, 3].map((step) => learningRateAt(step, constant)), [1, 1, 1]);
});

Deno.test("a model learns what it is shown again and again", async () => {
  const batch = randomBatch(model, 16);
  const reports = await trainSingle({ learningRate: 1e-2, steps: 40 }, Array.from({ length: 40 }, () => [batch]));
  assertAlmostEquals(reports[0].loss, Math.log(model.vocab), 0.1); // weights near zero: a uniform guess
  assertEquals(reports[39].loss < 0.3 * reports[0].loss, true);
});

Deno.test("micro-batches weigh by their valid tokens, as one batch would", async () => {
  const sequences = [1, 2, 3].map((seed) => randomBatch(model, 16, { seed, ignored: 0.25 * seed }));
  const together: TokenBatch = {
    batch: 3,
    inputs: Uint32Array.from(sequences.flatMap(({ inputs }) => [...inputs])),
    labels: Uint32Array.from(sequences.flatMap(({ labels }) => [...labels])),
  };
  const apart = await trainSingle({ accumulate: 3 }, [sequences, sequences]);
  const whole = await trainSingle({ batch: 3 }, [[together], [together]]);
  for (const step of [0, 1]) {
    // Rounding of f32 sums in another order, widened by one AdamW step.
    assertClose([apart[step].loss], [whole[step].loss], { relative: 1e-6, what: `loss of step ${step + 1}` });
    assertClose([apart[step].gradNorm], [whole[step].gradNorm], { relative: 1e-5, what: `norm of step ${step + 1}` });
  }
});

Deno.test("clipping bounds the step by the global norm", async () => {
  const batches = Array.from({ length: 3 }, (_, i) => [randomBatch(model, 16, { seed: i })]);
  const clipped = await trainSingle({ clipNorm: 1e-3, epsilon: 1 }, batches);
  const free = await trainSingle({ clipNorm: 0, epsilon: 1 }, batches);
  assertEquals(clipped[0].gradNorm, free[0].gradNorm); // reported before clipping
  assertEquals(clipped[0].gradNorm > 1e-2, true);
  // With a large epsilon AdamW moves in proportion to the gradient, so clipped weights stay nearly where they were.
  assertEquals(clipped[2].loss > free[2].loss - 1e-3 && clipped[2].loss !== free[2].loss, true);
});

Deno.test("a step without any valid token reports a loss of zero and no gradient", async () => {
  const batch = randomBatch(model, 16);
  batch.labels.fill(IGNORED_LABEL);
  const [report] = await trainSingle({}, [[batch]]);
  assertEquals([report.loss, report.gradNorm], [0, 0]);
});

Deno.test("initial weights and losses do not depend on the number of ranks", async () => {
  const batches = [1, 2, 3].map((seed) => [randomBatch(model, 16, { seed })]);
  const alone = await trainSingle({ seed: 7 }, batches);
  const train = parseTrainConfig({ seqTokens: 16, seed: 7 });
  await Promise.all(
    createLoopbackGroups(3).map(async (group) => {
      await using backend = createReferenceBackend();
      using trainer = new Trainer({ backend, strategy: createRingStrategy({ backend, group }), model, train });
      for (const [i, step] of batches.entries()) {
        const report = await trainer.step(step);
        assertClose([report.loss], [alone[i].loss], { relative: 1e-5, what: `loss of step ${i + 1}` });
      }
      await group.close();
    }),
  );
  const [other] = await trainSingle({ seed: 8 }, batches.slice(0, 1));
  assertEquals(other.loss === alone[0].loss, false);
});

Deno.test("bad batches are refused before any work", async () => {
  await using backend = createReferenceBackend();
  const train = parseTrainConfig({ seqTokens: 16 });
  using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train });
  const live = backend.ledger.liveBytes();
  const good = randomBatch(model, 16);
  const bad: [TokenBatch[], string][] = [
    [[], "Cannot train on no micro-batches"],
    [[randomBatch(model, 15)], "wanted 1 x 16"],
    [[{ ...good, inputs: good.inputs.with(3, 40) }], "Cannot embed token 40 at row 3: the vocabulary has 40 tokens"],
    [[{ ...good, labels: good.labels.with(5, 41) }], "Cannot use label 41 at row 5"],
  ];
  for (const [batches, message] of bad) await assertRejects(() => trainer.step(batches), RangeError, message);
  assertEquals(backend.ledger.liveBytes(), live);
  assertEquals((await trainer.step([good])).step, 1, "what was refused is no step");
});

Deno.test("a loss that is not a number ends training", async () => {
  await using backend = createReferenceBackend();
  const train = parseTrainConfig({ seqTokens: 16, learningRate: 1e30, clipNorm: 0 });
  using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train });
  await assertRejects(
    async () => {
      for (let step = 0; step < 5; step++) await trainer.step([randomBatch(model, 16)]);
    },
    RangeError,
    "Cannot go on after step",
  );
});

Deno.test("settings out of range are refused by name", () => {
  assertThrows(() => parseTrainConfig({ seqTokens: 0 }), RangeError, "seqTokens");
  assertThrows(() => parseTrainConfig({ recompute: "some" }), RangeError, "recompute");
  assertThrows(() => parseTrainConfig({ learningRat: 1 }), RangeError, "learningRat");
});
