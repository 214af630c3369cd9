import { assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import {
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  elementCount,
  estimateMemory,
  pairedSegment,
  parameterSpecs,
  parseTrainConfig,
  type ProcessGroup,
  readModelWeights,
  RECOMPUTE_POLICIES,
  type SequenceStrategy,
  SHARD_STAGES,
  tensorFrom,
  type TokenBatch,
  Trainer,
  UnsupportedTopologyError,
  zeros,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { strategyEntry } from "../../packages/bench/scenario.ts";
import { assertClose } from "../_support/compare.ts";
import { withTempDir } from "../_support/temp_dir.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

const SETTINGS = { seqTokens: 16, mlpChunks: 2, headChunks: 3, learningRate: 1e-2, schedule: "constant" };
const model = tinyModel();
const batches = [1, 2, 3, 4].map((seed) => [randomBatch(model, 16, { seed })]);

function createTrainer(
  backend: Backend,
  settings: Record<string, unknown> = {},
  strategy: SequenceStrategy = createSingleStrategy(backend),
): Trainer {
  const train = parseTrainConfig({ ...SETTINGS, precision: "mixed", ...settings });
  return new Trainer({ backend, strategy, model, train });
}

/** Weights large enough that the smallest gradient of the loss overflows f16 at the first loss scale. */
function steep(): Map<string, Float32Array> {
  return new Map(
    parameterSpecs(model).map(({ name, shape }) => {
      const size = shape.reduce((product, dim) => product * dim, 1);
      const scale = name.includes("down_proj") || name === "lm_head.weight" ? 20 : 1;
      return [name, Float32Array.from({ length: size }, (_, i) => shape.length === 1 ? 1 : scale * Math.sin(i))];
    }),
  );
}

Deno.test("gradients of a model in mixed precision are those in f32 within the rounding of f16", async () => {
  await using backend = createReferenceBackend({ poison: true });
  for (const recompute of RECOMPUTE_POLICIES) {
    using exact = createTrainer(backend, { precision: "f32", recompute });
    using mixed = createTrainer(backend, { recompute });
    const [expected, actual] = [await exact.gradients(batches[0]), await mixed.gradients(batches[0])];
    assertClose([actual.loss], [expected.loss], { relative: 1e-4, what: "loss" });
    assertNotEquals(actual.loss, expected.loss);
    for (const [name, values] of expected.gradients) {
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      // About ten roundings to 11 bits (4.9e-4 each) on the way through two blocks and back.
      assertClose(actual.gradients.get(name)!, values, {
        absolute: 1e-2 * largest,
        what: `gradient of ${name}`,
        rejectAllZero: true,
      });
    }
  }
});

for (const inBackward of [false, true]) {
  const settings = inBackward ? { optimizerInBackward: true, clipNorm: 0 } : {};

  Deno.test(`an overflow is skipped, reported, and lowers the scale${inBackward ? ", in backward" : ""}`, async () => {
    await using backend = createReferenceBackend({ poison: true });
    const train = parseTrainConfig({ ...SETTINGS, ...settings, precision: "mixed" });
    using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train, weights: steep() });
    const before = await trainer.logits(batches[0][0]);
    const overflowed = await trainer.step(batches[0]);
    assertEquals([overflowed.skipped, overflowed.lossScale, overflowed.gradNorm], [true, 65536, Infinity]);
    assertEquals(Number.isFinite(overflowed.loss), true);
    // In backward groups decide by themselves: the head's gradients have not met an overflow yet.
    if (!inBackward) assertEquals(await trainer.logits(batches[0][0]), before);
    let good = overflowed;
    let scale = 65536;
    while (good.skipped) {
      assertEquals(good.lossScale, scale);
      scale /= 2;
      good = await trainer.step(batches[0]);
    }
    assertEquals([good.lossScale, Number.isFinite(good.gradNorm)], [scale, true]);
    assertNotEquals(await trainer.logits(batches[0][0]), before);
  });
}

Deno.test("updates in backward are those after backward in mixed precision, too", async () => {
  await using backend = createReferenceBackend({ poison: true });
  using after = createTrainer(backend, { clipNorm: 0 });
  using during = createTrainer(backend, { clipNorm: 0, optimizerInBackward: true });
  for (const batch of batches) assertEquals((await during.step(batch)).loss, (await after.step(batch)).loss);
  assertEquals(await during.logits(batches[0][0]), await after.logits(batches[0][0]));
});

Deno.test("updates too small for f16 add up, where rounding to the nearest would lose them", async () => {
  await using backend = createReferenceBackend();
  const size = 512;
  const ones = new Float32Array(size).fill(1);
  using stochastic = tensorFrom(backend, ones, [size], "weights", "f16");
  using nearest = tensorFrom(backend, ones, [size], "weights", "f16");
  using exact = tensorFrom(backend, ones, [size], "weights");
  using gradient = tensorFrom(backend, ones, [size], "gradients");
  const steps = 200;
  const moments = () => [zeros(backend, [size], "optimizer"), zeros(backend, [size], "optimizer")] as const;
  const [[m, v], [m2, v2]] = [moments(), moments()];
  for (let step = 1; step <= steps; step++) {
    const options = { learningRate: 2e-5, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0, step };
    backend.ops.adamw(stochastic, gradient, m, v, { ...options, rounding: { seed: 1, stream: 2 } });
    backend.ops.cast(nearest, exact);
    backend.ops.adamw(exact, gradient, m2, v2, options);
    backend.ops.cast(exact, nearest);
  }
  const mean = async (tensor: typeof nearest) => (await backend.read(tensor)).reduce((sum, x) => sum + x, 0) / size;
  assertEquals(await mean(nearest), 1);
  // The mean of 512 walks of 200 steps, each with a standard deviation below 2.5e-4 per step, is off by less than 1e-3.
  assertClose([await mean(stochastic)], [1 - steps * 2e-5], { absolute: 1e-3, what: "mean weight" });
  [m, v, m2, v2].forEach((tensor) => tensor.free());
});

for (const settings of [{}, { optimizerStates: "f32", clipNorm: 0.5 }]) {
  Deno.test(`a run in mixed precision goes on bit for bit, ${JSON.stringify(settings)}`, async () => {
    await using backend = createReferenceBackend({ poison: true });
    using trainer = createTrainer(backend, settings);
    for (const batch of batches.slice(0, 2)) await trainer.step(batch);
    await withTempDir(async (folder) => {
      await trainer.save(`${folder}/checkpoint`);
      const weights = await readModelWeights(`${folder}/checkpoint`, model);
      const train = parseTrainConfig({ ...SETTINGS, precision: "mixed", ...settings });
      using resumed = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train, weights });
      await resumed.resume(`${folder}/checkpoint`, 2);
      for (const batch of batches.slice(2)) {
        const [expected, actual] = [await trainer.step(batch), await resumed.step(batch)];
        assertEquals([actual.loss, actual.gradNorm], [expected.loss, expected.gradNorm]);
      }
      assertEquals(await resumed.logits(batches[0][0]), await trainer.logits(batches[0][0]));
    });
  });
}

Deno.test("a run goes on with the loss scale that it had come to", async () => {
  await using backend = createReferenceBackend({ poison: true });
  const train = parseTrainConfig({ ...SETTINGS, precision: "mixed" });
  using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train, weights: steep() });
  assertEquals((await trainer.step(batches[0])).skipped, true);
  await withTempDir(async (folder) => {
    await trainer.save(`${folder}/checkpoint`);
    using resumed = createTrainer(backend);
    await resumed.resume(`${folder}/checkpoint`, 1);
    assertEquals((await resumed.step(batches[0])).lossScale, 32768);
  });
});

async function trainOn(
  backend: Backend,
  strategy: SequenceStrategy,
  steps: readonly TokenBatch[][],
  settings: Record<string, unknown> = {},
) {
  const train = parseTrainConfig({ ...SETTINGS, precision: "mixed", ...settings });
  const { peakBytes } = estimateMemory(model, train, strategy);
  using trainer = new Trainer({ backend, strategy, model, train });
  const reports = [];
  for (const batch of steps) {
    backend.ledger.resetPeak();
    reports.push(await trainer.step(batch));
    assertEquals(backend.ledger.peak().totalBytes, peakBytes);
  }
  return reports;
}

const STRATEGIES = [
  { name: "a ring", ranks: 2, create: createRingStrategy },
  { name: "a ring", ranks: 3, create: createRingStrategy },
  { name: "ulysses", ranks: 2, create: createUlyssesStrategy },
  { name: "ulysses", ranks: 4, create: createUlyssesStrategy },
  { name: "usp", ranks: 4, create: createUsp },
];

function createUsp(context: { readonly backend: Backend; readonly group: ProcessGroup }): SequenceStrategy {
  return strategyEntry("usp").create({ ...context, placement: "zigzag", mesh: { ulysses: 2, ring: 2 } });
}

for (const { name, ranks, create } of STRATEGIES) {
  Deno.test(`${name} of ${ranks} ranks trains in mixed precision as one rank does`, async () => {
    await using backend = createReferenceBackend({ poison: true });
    const single = await trainOn(backend, createSingleStrategy(backend), batches);
    const results = await Promise.all(
      createLoopbackGroups(ranks).map(async (group) => {
        await using backend = createReferenceBackend({ poison: true });
        const reports = await trainOn(backend, create({ backend, group }), batches);
        await group.close();
        return reports;
      }),
    );
    for (const [i, { loss, gradNorm }] of single.entries()) {
      for (const reports of results) {
        // Partial outputs and sums of dq, dk and dv are rounded to f16 once more for each block.
        assertClose([reports[i].loss], [loss], { relative: 1e-3, what: `loss of step ${i + 1}` });
        assertClose([reports[i].gradNorm], [gradNorm], { relative: 1e-2, what: `norm of step ${i + 1}` });
        assertEquals(reports[i].gradNorm, results[0][i].gradNorm);
      }
    }
  });
}

Deno.test("states in mixed precision are the same to the bit however they are divided, and weights travel in f16", async () => {
  const results = new Map<string, { losses: number[]; bytesSent: number }>();
  for (const shard of SHARD_STAGES) {
    await Promise.all(
      createLoopbackGroups(3).map(async (group) => {
        await using backend = createReferenceBackend({ poison: true });
        const reports = await trainOn(backend, createRingStrategy({ backend, group }), batches, { shard });
        await group.close();
        if (group.rank > 0) return;
        results.set(shard, { losses: reports.map(({ loss }) => loss), bytesSent: reports[3].bytesSent });
      }),
    );
  }
  const [none, ...divided] = SHARD_STAGES.map((stage) => results.get(stage)!);
  for (const { losses } of divided) {
    assertEquals(losses, divided[0].losses);
    // Whole gradients travel as halves, of 11 bits, and a step moves a weight by the learning rate at most.
    assertClose(losses, none.losses, { relative: 1e-3, what: "losses" });
  }
  const sizeOf = (size: number, rank: number) => {
    const { start, end } = pairedSegment(size, 3, rank);
    return end - start;
  };
  // Gradients in f32 to their owners and weights as they are to all, instead of both ways in f16; squares for the norm.
  const more = parameterSpecs(model).map(({ shape }) => {
    const size = elementCount(shape);
    const [own, next] = [sizeOf(size, 0), sizeOf(size, 1)];
    const weightBytes = shape.length > 1 ? 2 : 4;
    return 4 * (size - own) + weightBytes * (size - next) - 2 * (size - own) - 2 * 2 * own;
  });
  assertEquals(divided[0].bytesSent - none.bytesSent, more.reduce((sum, bytes) => sum + bytes, 16));
});

Deno.test("what cannot be trained in mixed precision is refused before any work", async () => {
  await using backend = createReferenceBackend();
  const train = parseTrainConfig({ ...SETTINGS, precision: "mixed" });
  const refused = (values: Parameters<typeof tinyModel>[0], message: string) =>
    assertThrows(
      () => new Trainer({ backend, strategy: createSingleStrategy(backend), model: tinyModel(values), train }),
      RangeError,
      message,
    );
  refused({ vocab: 41 }, "vocab 41: it must be even");
  refused({ headDim: 6 }, "head dim of 6: it must be a multiple of 4");
  const [group, other] = createLoopbackGroups(2);
  const strategy = { ...createMegatronStrategy({ backend, group }), activations: undefined };
  assertThrows(
    () => new Trainer({ backend, strategy, model, train }),
    UnsupportedTopologyError,
    "in mixed under megatron",
  );
  await Promise.all([group.close(), other.close()]);
  assertEquals(backend.ledger.liveBytes(), 0);
});
