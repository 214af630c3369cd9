/** Updates in backward where gradients are summed over ranks while backward goes on. */

import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import {
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  parameterSpecs,
  parseTrainConfig,
  PeerError,
  type ProcessGroup,
  type SequenceStrategy,
  type StepReport,
  type Tensor,
  Trainer,
  UnsupportedTopologyError,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { assertClose } from "../_support/compare.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

const SEQ_TOKENS = 18;
const SETTINGS = {
  ...{ seqTokens: SEQ_TOKENS, clipNorm: 0, mlpChunks: 2, headChunks: 3 },
  ...{ learningRate: 1e-2, schedule: "constant" },
};
const DURING = { optimizerInBackward: true };
const UNTIED = tinyModel();
const TIED = tinyModel({ tiedEmbeddings: true, layers: 3 });

type Create = (context: { backend: Backend; group: ProcessGroup }) => SequenceStrategy;
const single: Create = ({ backend }) => createSingleStrategy(backend);

/** What a rank has after some steps. */
interface Trained {
  readonly reports: readonly StepReport[];
  readonly weights: readonly Float32Array[];
}

interface TrainOptions {
  readonly model?: typeof UNTIED;
  readonly weights?: ReadonlyMap<string, Float32Array>;
  readonly steps?: number;
}

/** Steps on every rank, which must leave nothing on its device. */
async function train(
  create: Create,
  ranks: number,
  settings: Record<string, unknown>,
  { model = UNTIED, weights, steps = 3 }: TrainOptions = {},
): Promise<Trained[]> {
  return await Promise.all(
    createLoopbackGroups(ranks).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const kept: Tensor[] = [];
      const empty = backend.empty.bind(backend);
      backend.empty = (shape, tag, dtype) => {
        const tensor = empty(shape, tag, dtype);
        if (tag === "weights") kept.push(tensor);
        return tensor;
      };
      const reports: StepReport[] = [];
      const config = parseTrainConfig({ ...SETTINGS, ...settings });
      const trainer = new Trainer({ backend, strategy: create({ backend, group }), model, train: config, weights });
      for (let seed = 1; seed <= steps; seed++) {
        reports.push(await trainer.step([randomBatch(model, SEQ_TOKENS, { seed, ignored: 0.2 })]));
        assertEquals([backend.ledger.live().gradients > 0, backend.ledger.live().communication], [
          !config.optimizerInBackward,
          0,
        ]);
      }
      const read = await backend.readAll(kept);
      trainer[Symbol.dispose]();
      await group.close();
      assertEquals(backend.ledger.liveBytes(), 0);
      return { reports, weights: read };
    }),
  );
}

function lossesOf({ reports }: Trained): number[] {
  return reports.map(({ loss }) => loss);
}

function normsOf({ reports }: Trained): number[] {
  return reports.map(({ gradNorm }) => gradNorm);
}

/** Asserts that all ranks have the same weights to the bit, and finite ones. */
function assertSameWeights(trained: readonly Trained[]): void {
  for (const { weights } of trained) {
    assertEquals(weights, trained[0].weights, "weights are the same to the bit on every rank");
    assert(weights.every((values) => values.every(Number.isFinite)));
  }
}

const WAYS: readonly (readonly [string, Create, number])[] = [
  ["ring", createRingStrategy, 2],
  ["ring", createRingStrategy, 3],
  ["ulysses", createUlyssesStrategy, 2],
];

for (const [name, create, ranks] of WAYS) {
  for (const model of [UNTIED, TIED]) {
    const tied = model.tiedEmbeddings ? ", tied" : "";

    Deno.test(`${name} of ${ranks} updates in backward as after it and as one rank does${tied}`, async () => {
      const [[one], after, during] = await Promise.all([
        train(single, 1, {}, { model }),
        train(create, ranks, {}, { model }),
        train(create, ranks, DURING, { model }),
      ]);
      assertSameWeights(during);
      assertNotEquals(during[0].weights, (await train(create, ranks, DURING, { model, steps: 2 }))[0].weights);
      for (const [rank, trained] of during.entries()) {
        // Sums of two terms are the same in any order; of three they are rounded in another one.
        const isSame = ranks === 2;
        if (isSame) assertEquals(trained.weights, after[rank].weights);
        if (isSame) assertEquals(lossesOf(trained), lossesOf(after[rank]));
        for (const other of [after[rank], one]) {
          // AdamW divides by the root of tiny numbers, which widens the rounding of the gradients.
          assertClose(lossesOf(trained), lossesOf(other), { relative: 1e-5, what: "losses" });
          assertClose(normsOf(trained), normsOf(other), { relative: 1e-4, what: "norms" });
          for (const [i, values] of trained.weights.entries()) {
            // A step moves a weight by the learning rate, 1e-2, where gradients are not nearly zero.
            const far = values.filter((value, at) => Math.abs(value - other.weights[i][at]) > 1e-4).length;
            assert(far <= 0.01 * values.length, `${far} of ${values.length} elements of weight ${i} differ`);
          }
        }
      }
    });
  }
}

Deno.test("gradients travel as halves in mixed precision, as many bytes in backward as after it", async () => {
  const exchanged = async (settings: Record<string, unknown>) => {
    const ring = await train(createRingStrategy, 2, { recompute: "selective", ...settings }, { steps: 1 });
    return ring.map(({ reports }) => reports[0].bytesSent);
  };
  const half = { precision: "mixed" };
  const [after, during, afterHalf, duringHalf] = await Promise.all(
    [{}, DURING, half, { ...half, ...DURING }].map((settings) => exchanged(settings)),
  );
  const elements = parameterSpecs(UNTIED).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
  assert(after.every((bytes) => bytes > 4 * elements));
  assertEquals(during, after);
  assertEquals(duringHalf, after.map((bytes) => bytes / 2)); // keys and values, too
  assertEquals(afterHalf, duringHalf);
});

for (const model of [UNTIED, TIED]) {
  const tied = model.tiedEmbeddings ? ", tied" : "";

  Deno.test(`mixed precision updates in backward over ranks as one rank does within its rounding${tied}`, async () => {
    const mixed = { precision: "mixed" };
    const [one] = await train(single, 1, mixed, { model });
    const [exact] = await train(single, 1, {}, { model });
    for (const [, create, ranks] of WAYS) {
      const during = await train(create, ranks, { ...mixed, ...DURING }, { model });
      assertSameWeights(during);
      assertNotEquals(lossesOf(during[0]), lossesOf(exact));
      for (const trained of during) {
        assertEquals(trained.reports.map(({ skipped }) => skipped), [false, false, false]);
        // About ten roundings to 11 bits (4.9e-4 each) on the way of a gradient, of whose squares the norm is the root;
        // of a loss the rounding is smaller, as the weights have moved by little.
        assertClose(normsOf(trained), normsOf(one), { relative: 1e-2, what: "norms" });
        assertClose(lossesOf(trained), lossesOf(one), { relative: 2e-3, what: "losses" });
      }
    }
  });
}

Deno.test("a step that is not finite is skipped on every rank, and the next ones go on alike", async () => {
  // Large enough that the smallest gradient of the loss overflows f16 at the first loss scale.
  const weights = new Map(
    parameterSpecs(UNTIED).map(({ name, shape }) => {
      const scale = name.includes("down_proj") || name === "lm_head.weight" ? 20 : 1;
      const size = shape.reduce((product, dim) => product * dim, 1);
      return [name, Float32Array.from({ length: size }, (_, i) => shape.length === 1 ? 1 : scale * Math.sin(i))];
    }),
  );
  const during = await train(createRingStrategy, 3, { precision: "mixed", ...DURING }, { weights, steps: 16 });
  assertSameWeights(during);
  for (const { reports } of during) {
    assertEquals([reports[0].skipped, reports[0].gradNorm, reports[0].lossScale], [true, Infinity, 65536]);
    assertEquals([reports[1].lossScale, reports.at(-1)!.skipped], [32768, false]);
    assertEquals(reports.map(({ skipped }) => skipped), during[0].reports.map(({ skipped }) => skipped));
  }
});

Deno.test("gradients that no update uses are those after backward, and all exchange that is waited for counts", async () => {
  const delayMs = 50;
  const batch = [randomBatch(UNTIED, SEQ_TOKENS)];
  const run = (settings: Record<string, unknown>) =>
    Promise.all(
      createLoopbackGroups(2).map(async (group) => {
        await using backend = createReferenceBackend({ poison: true });
        const send = group.send.bind(group);
        group.send = async (to, data, label) => {
          if (label.startsWith("sum ")) await new Promise((resolve) => setTimeout(resolve, delayMs));
          await send(to, data, label);
        };
        const strategy = createRingStrategy({ backend, group });
        const config = parseTrainConfig({ ...SETTINGS, ...settings });
        using trainer = new Trainer({ backend, strategy, model: UNTIED, train: config });
        const { gradients } = await trainer.gradients(batch);
        const { exposedCommunicationMs } = await trainer.step(batch);
        await group.close();
        return { gradients, exposedCommunicationMs };
      }),
    );
  const [after, during] = await Promise.all([run({}), run(DURING)]);
  for (const [rank, { gradients, exposedCommunicationMs }] of during.entries()) {
    assertEquals(gradients, after[rank].gradients); // of two ranks the same sums, to the bit
    // The head's, two blocks' and the embedding's, one after the other, of which compute of a few ms hides little.
    assert(exposedCommunicationMs > 3.5 * delayMs, `${exposedCommunicationMs} ms`);
  }
});

Deno.test("ranks whose sums are not the same to the bit are noticed", async () => {
  const uneven: Create = ({ backend, group }) => {
    const strategy = createRingStrategy({ backend, group });
    return {
      ...strategy,
      beginReduction(gradients, dtype) {
        const reduction = strategy.beginReduction(gradients, dtype);
        const finish = async () => {
          await reduction.finish();
          backend.ops.scale(gradients[0], 1 + group.rank * 2 ** -10);
        };
        return { ...reduction, finish };
      },
    };
  };
  const trained = await train(uneven, 2, DURING);
  await assertRejects(async () => await assertSameWeights(trained), Error, "the same to the bit");
});

Deno.test("a peer that fails, and an error while gradients travel, leave nothing behind", async () => {
  const config = parseTrainConfig({ ...SETTINGS, ...DURING });
  // In the head, in the MLP and in the attention of the blocks.
  for (const failsAt of [3, 4, 6, 7, 9]) {
    const [first, second] = createLoopbackGroups(2);
    const run = async (group: ProcessGroup, isFaulty: boolean) => {
      await using backend = createReferenceBackend({ poison: true });
      const strategy = createRingStrategy({ backend, group });
      const { rmsNormBackward } = backend.ops;
      let calls = 0;
      backend.ops.rmsNormBackward = (...args) => {
        if (isFaulty && ++calls === failsAt) throw new RangeError("out of memory");
        rmsNormBackward.apply(backend.ops, args);
      };
      const trainer = new Trainer({ backend, strategy, model: UNTIED, train: config });
      try {
        await trainer.step([randomBatch(UNTIED, SEQ_TOKENS)]);
      } catch (error) {
        group.abort(error as Error);
        assertEquals([backend.ledger.live().gradients, backend.ledger.live().communication], [0, 0]);
        throw error;
      } finally {
        trainer[Symbol.dispose]();
        await group.close();
      }
    };
    await Promise.all([
      assertRejects(() => run(first, true), RangeError, "out of memory"),
      assertRejects(() => run(second, false), PeerError, "out of memory"),
    ]);
  }
});

Deno.test("an update in backward is refused over ranks that divide states", async () => {
  const groups = createLoopbackGroups(2);
  await using backend = createReferenceBackend();
  const refused = (create: Create, settings: Record<string, unknown>, message: string) =>
    assertThrows(
      () =>
        new Trainer({
          ...{ backend, strategy: create({ backend, group: groups[0] }), model: UNTIED },
          train: parseTrainConfig({ ...SETTINGS, ...DURING, ...settings }),
        }),
      UnsupportedTopologyError,
      message,
    );
  for (const shard of ["optimizer", "gradients", "weights"]) {
    const message = `Cannot update in backward over 2 ranks with shard ${shard}: each has to update whole weights`;
    refused(createRingStrategy, { shard }, message);
  }
  refused(createMegatronStrategy, {}, "Cannot update in backward under megatron over 2 ranks");
  assertEquals(backend.ledger.liveBytes(), 0);
  await Promise.all(groups.map((group) => group.close()));
});
