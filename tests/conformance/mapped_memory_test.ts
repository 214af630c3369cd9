/** Every strategy over ranks that map each other's memory, as they do on one host. */

import { assert, assertEquals, assertLess } from "@std/assert";
import {
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  parseTrainConfig,
  type ProcessGroup,
  type SequenceStrategy,
  shareMemory,
  Trainer,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

type Create = (options: { backend: Backend; group: ProcessGroup }) => SequenceStrategy;

const WARM_UP_STEPS = 3;
const STEPS = 6;
const MODEL = tinyModel({ heads: 4, kvHeads: 4, headDim: 4 });

const RUNS: readonly (readonly [string, number, Create, Record<string, unknown>])[] = [
  ["ring", 3, createRingStrategy, {}],
  ["ring", 2, createRingStrategy, { shard: "weights", precision: "mixed" }],
  ["ring", 3, createRingStrategy, { optimizerInBackward: true, clipNorm: 0 }],
  ["ulysses", 2, createUlyssesStrategy, { shard: "gradients", accumulate: 2 }],
  ["megatron", 2, (options) => createMegatronStrategy({ ...options, windowTokens: 24 }), {}],
];

/** Losses of every rank, and how many arrays of fresh memory rank 0 took in each step. */
async function train(groups: readonly ProcessGroup[], create: Create, settings: Record<string, unknown>) {
  const config = parseTrainConfig({ seqTokens: 24, ...settings });
  const fresh: number[] = [];
  const losses = await Promise.all(groups.map(async (group) => {
    await using backend = createReferenceBackend();
    const countFresh = watchMemory(group);
    using trainer = new Trainer({ backend, strategy: create({ backend, group }), model: MODEL, train: config });
    const losses: number[] = [];
    for (let step = 1; step <= STEPS; step++) {
      const seed = 10 * step;
      const batches = Array.from({ length: config.accumulate }, (_, i) => randomBatch(MODEL, 24, { seed: seed + i }));
      losses.push((await trainer.step(batches)).loss);
      await group.barrier();
      if (group.rank === 0) fresh.push(countFresh());
    }
    return losses;
  }));
  await Promise.all(groups.map((group) => group.close()));
  return { losses, fresh };
}

/** Counts the buffers that a rank's memory hands out for the first time, from one call to the next. */
function watchMemory({ memory }: ProcessGroup): () => number {
  const seen = new WeakSet<ArrayBufferLike>();
  let fresh = 0;
  for (const method of ["floats", "bytes"] as const) {
    const take = memory[method].bind(memory);
    memory[method] = ((length: number) => {
      const array = take(length);
      if (!seen.has(array.buffer)) fresh++;
      seen.add(array.buffer);
      return array;
    }) as typeof take & (typeof memory)["floats"] & (typeof memory)["bytes"];
  }
  return () => {
    const count = fresh;
    fresh = 0;
    return count;
  };
}

for (const [name, ranks, create, settings] of RUNS) {
  Deno.test(`${name} over ${ranks} ranks trains in mapped memory as elsewhere, and gets it back, ${JSON.stringify(settings)}`, async () => {
    const elsewhere = await train(createLoopbackGroups(ranks), create, settings);
    const links = createLoopbackGroups(ranks);
    const groups = await Promise.all(links.map((group) => shareMemory(group, { addressBytes: 2 ** 28 })));
    const { losses, fresh } = await train(groups, create, settings);
    assertEquals(losses, elsewhere.losses);
    assert(fresh[0] > 0, "what is sent lies in mapped memory");
    // What is not released is missing in each step; how much is under way at once may differ a little.
    const later = fresh.slice(WARM_UP_STEPS);
    assertLess(later.reduce((sum, count) => sum + count, 0), later.length, `${fresh}`);
    assertLess(links[0].stats.bytesSent, groups[0].stats.bytesSent / 2);
  });
}
