/** The policy that computes everything of a block again but attention itself. */

import { assert, assertEquals } from "@std/assert";
import {
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  parseTrainConfig,
  type ProcessGroup,
  type RecomputePolicy,
  type SequenceStrategy,
  Trainer,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { strategyEntry } from "../../packages/bench/scenario.ts";
import { gpuTest } from "../_support/gpu.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

const MODEL = tinyModel();
const SEQ_TOKENS = 22;

interface Ranked {
  readonly ranks: number;
  readonly create: (context: { backend: Backend; group: ProcessGroup }) => SequenceStrategy;
  /** Calls of attention's forward for a block. */
  readonly rounds: number;
  readonly isSplit?: boolean;
}

const STRATEGIES: Record<string, Ranked> = {
  "single": { ranks: 1, create: ({ backend }) => createSingleStrategy(backend), rounds: 1 },
  "ring": { ranks: 3, create: createRingStrategy, rounds: 3 },
  "ulysses": { ranks: 2, create: createUlyssesStrategy, rounds: 1 },
  "usp": {
    ranks: 4,
    create: (context) =>
      strategyEntry("usp").create({ ...context, placement: "zigzag", mesh: { ulysses: 2, ring: 2 } }),
    rounds: 2,
  },
  "megatron": {
    ranks: 2,
    create: (context) => createMegatronStrategy({ ...context, windowTokens: 10 }),
    rounds: 1,
    isSplit: true,
  },
};

interface Trained {
  readonly numbers: readonly (readonly number[])[];
  /** Calls of attention's forward in a step. */
  readonly attended: number;
}

/** Two steps, then all gradients of a further batch; every rank's. */
async function train({ create, ranks }: Ranked, settings: Record<string, unknown>): Promise<Trained[]> {
  const config = parseTrainConfig({ seqTokens: SEQ_TOKENS, mlpChunks: 3, headChunks: 2, ...settings });
  const batches = (seed: number) =>
    Array.from({ length: config.accumulate }, (_, i) =>
      randomBatch(MODEL, SEQ_TOKENS, {
        ...{ batch: config.batch, seed: 10 * seed + i, ignored: 0.2 },
        longestDocument: config.packed ? 7 : undefined,
      }));
  return await Promise.all(
    createLoopbackGroups(ranks).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const attention = backend.ops.attention;
      let calls = 0;
      backend.ops.attention = (...args) => {
        calls++;
        attention.apply(backend.ops, args);
      };
      const numbers: number[][] = [];
      {
        using trainer = new Trainer({ backend, strategy: create({ backend, group }), model: MODEL, train: config });
        for (let step = 1; step <= 2; step++) {
          const { loss, gradNorm } = await trainer.step(batches(step));
          numbers.push([loss, gradNorm]);
        }
        if (!config.optimizerInBackward) {
          const { gradients } = await trainer.gradients(batches(0));
          for (const gradient of gradients.values()) numbers.push([...gradient]);
        }
        await group.close();
      }
      assertEquals(backend.ledger.liveBytes(), 0);
      assert(numbers.every((values) => values.every(Number.isFinite) && values.some((value) => value !== 0)));
      return { numbers, attended: calls / (config.optimizerInBackward ? 2 : 3) };
    }),
  );
}

const SETTINGS: readonly Record<string, unknown>[] = [
  { accumulate: 2, batch: 2, packed: true },
  { precision: "mixed", accumulate: 2 },
  { shard: "weights" },
  { optimizerInBackward: true, clipNorm: 0, precision: "mixed" },
];

for (const [name, ranked] of Object.entries(STRATEGIES)) {
  Deno.test(`${name}: all but attention is computed again, and no bit changes`, async () => {
    for (const settings of SETTINGS) {
      if (ranked.isSplit && (settings.precision || settings.shard)) continue;
      const run = (recompute: RecomputePolicy) => train(ranked, { ...settings, recompute });
      const [kept, selective, layer] = await Promise.all([run("except-attention"), run("selective"), run("layer")]);
      const once = MODEL.layers * ranked.rounds * (Number(settings.accumulate) || 1);
      for (const [rank, { numbers, attended }] of kept.entries()) {
        const what = `${JSON.stringify(settings)}, rank ${rank}`;
        assertEquals(numbers, selective[rank].numbers, what);
        assertEquals([attended, layer[rank].attended], [once, 2 * once], what);
      }
    }
  });
}

Deno.test("inputs of blocks, attention's outputs and log-sum-exp wait as checkpoints, and nothing else", async () => {
  const train = parseTrainConfig({ seqTokens: SEQ_TOKENS, recompute: "except-attention" });
  await using backend = createReferenceBackend();
  using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model: MODEL, train });
  await trainer.step([randomBatch(MODEL, SEQ_TOKENS)]);
  const { dim, heads, headDim, layers } = MODEL;
  // And the input of the MLP whose backward runs.
  assertEquals(backend.ledger.highest().checkpoints, 4 * SEQ_TOKENS * (layers * (dim + heads * headDim + heads) + dim));
});

gpuTest("WebGPU attends once for a block, and twice where whole layers are computed again", async (backend) => {
  const dispatches = async (recompute: RecomputePolicy) => {
    const config = parseTrainConfig({ seqTokens: SEQ_TOKENS, mlpChunks: 3, headChunks: 2, recompute });
    using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model: MODEL, train: config });
    await backend.takeProfile();
    await trainer.step([randomBatch(MODEL, SEQ_TOKENS)]);
    const profile = await backend.takeProfile();
    return ["attention ", "attention_dq ", "attention_dkv "].map((name) =>
      profile.reduce((sum, { kernel, dispatches }) => sum + (`${kernel} `.startsWith(name) ? dispatches : 0), 0)
    );
  };
  const { layers } = MODEL;
  assertEquals(await dispatches("except-attention"), [layers, layers, layers]);
  assertEquals(await dispatches("layer"), [2 * layers, layers, layers]);
}, { profile: true });
