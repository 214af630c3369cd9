/**
 * What every strategy must do. A strategy's test supplies a factory, what it sends, and what it refuses.
 *
 * @module
 */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  attentionShape,
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  type ModelConfig,
  parseTrainConfig,
  type ProcessGroup,
  type RecomputePolicy,
  type SequenceStrategy,
  SHARD_STAGES,
  type ShardStage,
  type TokenBatch,
  type TrainConfig,
  Trainer,
  UnsupportedTopologyError,
} from "@mst/core";
import { assertClose } from "../_support/compare.ts";
import { assertAttentionMemory } from "./_attention_memory.ts";
import { type ConformanceShape, FOR_EIGHT_RANKS, randomBatches, type ShapeName, SHAPES } from "./_shapes.ts";
import { stateTraffic } from "./_state_traffic.ts";

/** What a strategy cannot do, and says so. */
export interface Skip {
  readonly shapes: readonly ShapeName[];
  readonly ranks: readonly number[];
  /** The message of its `UnsupportedTopologyError`, `R` standing for the ranks. */
  readonly reason: string;
}

/** Bytes that a rank sends for the attention of one layer and one micro-batch. */
export interface AttentionTraffic {
  readonly forward: number;
  readonly backward: number;
  /** Of a backward right behind a forward that was computed again; as any other if left out. */
  readonly backwardAfterRecomputation?: number;
  /** For what backward needs besides the output of attention, where only that was kept; none if left out. */
  readonly rematerialization?: number;
}

/** A strategy as the suite sees it. */
export interface StrategyCase {
  readonly name: string;
  readonly create: (options: { backend: Backend; group: ProcessGroup }) => SequenceStrategy;
  /** Closed formulas of what a rank of at least two sends. */
  readonly traffic: (shape: ConformanceShape, strategy: SequenceStrategy) => AttentionTraffic;
  /** What it sends in a step besides attention; by default for the model's states alone. */
  readonly otherTraffic?: (run: StepRun, strategy: SequenceStrategy) => number;
  readonly skips: readonly Skip[];
  /** How far its states can be sharded; every stage by default. The others are refused. */
  readonly shards?: readonly ShardStage[];
}

/** A step of a run. */
export interface StepRun {
  readonly model: ModelConfig;
  readonly train: TrainConfig;
  readonly batches: readonly TokenBatch[];
}

const RANKS = [1, 2, 3, 4, 5];
const IN_BACKWARD = { optimizerInBackward: true, clipNorm: 0 };

/** Defines the tests of a strategy. */
export function testStrategy(strategy: StrategyCase): void {
  for (const name of Object.keys(SHAPES) as ShapeName[]) {
    const supported = RANKS.filter((ranks) => !skipOf(strategy, name, ranks));

    Deno.test(`${strategy.name} computes what one rank computes: ${name}`, async () => {
      for (const ranks of supported) {
        for (const shard of ["none", "weights"] as const) {
          if (shardsOf(strategy).includes(shard)) await assertSameGradients(strategy, SHAPES[name], ranks, { shard });
        }
      }
    });

    Deno.test(`${strategy.name} holds and sends exactly the bytes that its formulas say: ${name}`, async () => {
      for (const ranks of supported) {
        await assertTraffic(strategy, SHAPES[name], ranks);
        await onRanks(ranks, async (backend, group) => {
          await assertAttentionMemory(backend, strategy.create({ backend, group }), SHAPES[name]);
        });
      }
    });

    for (const ranks of RANKS) {
      const skip = skipOf(strategy, name, ranks);
      if (!skip) continue;
      Deno.test(`${strategy.name} refuses ${ranks} ranks at construction: ${name}`, () => {
        assertRefused(strategy, SHAPES[name], ranks, skip.reason.replaceAll("R", String(ranks)));
      });
    }
  }

  Deno.test(`${strategy.name} computes what one rank computes, keeping attention's output alone`, async () => {
    const name = "packed documents, shorter than any block, batches";
    for (const ranks of RANKS.filter((ranks) => !skipOf(strategy, name, ranks))) {
      await assertSameGradients(strategy, SHAPES[name], ranks, { recompute: "except-attention" });
    }
  });

  for (const shard of shardsOf(strategy)) {
    Deno.test(`${strategy.name} trains as one rank does, for ten steps, shard ${shard}`, async () => {
      const names = ["multi-query, batches", ...shard === "none" ? ["packed documents"] : []] as ShapeName[];
      for (const name of names) {
        for (const ranks of RANKS) {
          if (!skipOf(strategy, name, ranks)) await assertSameTraining(strategy, SHAPES[name], ranks, { shard });
        }
      }
    });
  }

  Deno.test(`${strategy.name} trains as one rank does, updating in backward, or refuses to`, async () => {
    const name = "multi-head, tied";
    for (const ranks of [2, 3].filter((ranks) => !skipOf(strategy, name, ranks))) {
      const training = () => assertSameTraining(strategy, SHAPES[name], ranks, IN_BACKWARD);
      if (shardsOf(strategy).includes("weights")) { // ranks hold all weights
        await training();
        await assertTraffic(strategy, SHAPES[name], ranks, [{ ...IN_BACKWARD, accumulate: 1 }]);
      } else await assertRejects(training, UnsupportedTopologyError, "Cannot update in backward under");
    }
  });

  Deno.test(`${strategy.name} computes, sends and holds over 8 ranks what it should`, async () => {
    for (const shard of shardsOf(strategy)) await assertSameTraining(strategy, FOR_EIGHT_RANKS, 8, { shard });
    await assertSameGradients(strategy, FOR_EIGHT_RANKS, 8);
    await assertTraffic(strategy, FOR_EIGHT_RANKS, 8);
    await onRanks(8, async (backend, group) => {
      await assertAttentionMemory(backend, strategy.create({ backend, group }), FOR_EIGHT_RANKS);
    });
  });

  for (const shard of SHARD_STAGES.filter((shard) => !shardsOf(strategy).includes(shard))) {
    Deno.test(`${strategy.name} refuses to shard ${shard}`, async () => {
      const train = trainConfig(SHAPES.ragged, { shard });
      const [group] = createLoopbackGroups(2);
      await using backend = createReferenceBackend();
      const options = { backend, strategy: strategy.create({ backend, group }), model: SHAPES.ragged.model, train };
      assertThrows(() => new Trainer(options), UnsupportedTopologyError, `Cannot shard ${shard} under`);
      assertEquals(backend.ledger.liveBytes(), 0);
    });
  }

  Deno.test(`${strategy.name} refuses a sequence shorter than its ranks with the numbers`, async () => {
    const [group] = createLoopbackGroups(4);
    await using backend = createReferenceBackend();
    assertThrows(
      () => strategy.create({ backend, group }).partition(3),
      UnsupportedTopologyError,
      "Cannot split 3 tokens across 4 ranks: every rank needs at least one token",
    );
  });
}

/** Asserts that loss and gradients are those of one rank, and the same to the bit on all. */
export async function assertSameGradients(
  strategy: StrategyCase,
  shape: ConformanceShape,
  ranks: number,
  settings: { readonly shard?: ShardStage; readonly recompute?: RecomputePolicy } = {},
): Promise<void> {
  const train = trainConfig(shape, { accumulate: 2, ...settings });
  const batches = randomBatches(shape, 2);
  const whole = await onOneRank(shape.model, train, (trainer) => trainer.gradients(batches));
  const reports = await onTrainers(strategy, shape.model, train, ranks, (trainer) => trainer.gradients(batches));
  for (const { loss, gradients } of reports) {
    assertClose([loss], [whole.loss], { relative: 1e-6, what: `loss over ${ranks} ranks` });
    for (const [weight, expected] of whole.gradients) {
      // f32 sums in another order: 1e-5 of the largest gradient of the weight
      const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const what = `${weight} over ${ranks} ranks`;
      assertClose(gradients.get(weight)!, expected, { absolute: 1e-5 * largest, what, rejectAllZero: true });
    }
    assertEquals(gradients, reports[0].gradients, "gradients are the same to the bit on every rank");
  }
}

/**
 * Asserts that losses and gradient norms of ten steps are those of one rank that updates after backward, and the same to the
 * bit on all.
 */
export async function assertSameTraining(
  strategy: StrategyCase,
  shape: ConformanceShape,
  ranks: number,
  settings: Partial<Pick<TrainConfig, "shard" | "optimizerInBackward" | "clipNorm">> = {},
): Promise<void> {
  const train = trainConfig(shape, { learningRate: 0.01, ...settings });
  const batches = randomBatches(shape, 10);
  const steps = async (trainer: Trainer) => {
    const losses: number[] = [];
    const norms: number[] = [];
    for (const batch of batches) {
      const { loss, gradNorm } = await trainer.step([batch]);
      losses.push(loss);
      norms.push(gradNorm);
    }
    return { losses, norms };
  };
  const whole = await onOneRank(shape.model, { ...train, optimizerInBackward: false }, steps);
  assertEquals(new Set(whole.losses).size, 10, "the steps differ");
  const reports = await onTrainers(strategy, shape.model, train, ranks, steps);
  for (const report of reports) {
    // AdamW divides by the root of tiny numbers, which widens the rounding of the gradients.
    assertClose(report.losses, whole.losses, { relative: 1e-5, what: `losses over ${ranks} ranks` });
    assertClose(report.norms, whole.norms, { relative: 1e-4, what: `gradient norms over ${ranks} ranks` });
    assertEquals(report, reports[0], "losses and norms are the same to the bit on every rank");
  }
}

/** Asserts that every rank sends in a step what the strategy's formulas say. */
export async function assertTraffic(
  strategy: StrategyCase,
  shape: ConformanceShape,
  ranks: number,
  runs: readonly Record<string, unknown>[] = [
    { recompute: "none" },
    { recompute: "except-attention" },
    ...shardsOf(strategy).map((shard) => ({ recompute: "layer", shard })),
  ],
): Promise<void> {
  for (const run of runs) {
    const train = trainConfig(shape, { accumulate: 2, ...run });
    const batches = randomBatches(shape, train.accumulate);
    const wrong = await onTrainers(strategy, shape.model, train, ranks, async (trainer, ranked) => {
      const { bytesSent } = await trainer.step(batches);
      if (ranks === 1) return { bytesSent, expected: 0 };
      const { forward, backward, backwardAfterRecomputation = backward, rematerialization = 0 } = strategy
        .traffic(shape, ranked);
      const once = forward + backward;
      const perLayer: Record<RecomputePolicy, number> = {
        "none": once,
        "selective": once,
        "except-attention": once + rematerialization,
        "layer": 2 * forward + backwardAfterRecomputation,
      };
      const attention = shape.model.layers * train.accumulate * perLayer[train.recompute];
      const step: StepRun = { model: shape.model, train, batches };
      const other = strategy.otherTraffic?.(step, ranked) ?? stateTraffic(shape.model, train, ranked);
      return { bytesSent, expected: attention + other };
    });
    wrong.forEach(({ bytesSent, expected }, rank) => {
      assertEquals(bytesSent, expected, `bytes that rank ${rank} of ${ranks} sends, ${JSON.stringify(run)}`);
    });
  }
}

function assertRefused(strategy: StrategyCase, shape: ConformanceShape, ranks: number, message: string): void {
  const backend = createReferenceBackend();
  const dims = attentionShape(shape.model, shape.batch);
  const ranked = strategy.create({ backend, group: createLoopbackGroups(ranks)[0] });
  const partition = ranked.partition(shape.seqTokens);
  const calls = [() => ranked.attention(dims, partition), () => ranked.attentionMemory(dims, partition)];
  const { tensorParallel } = ranked;
  for (const call of tensorParallel ? [...calls, () => tensorParallel(shape.model)] : calls) {
    assertEquals(assertThrows(call, UnsupportedTopologyError).message, message);
  }
  assertEquals(backend.ledger.liveBytes(), 0);
}

/** Runs `body` on every rank of a loopback group; all that it allocates must be freed. */
async function onRanks<T>(ranks: number, body: (backend: Backend, group: ProcessGroup) => Promise<T>): Promise<T[]> {
  return await Promise.all(
    createLoopbackGroups(ranks).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const result = await body(backend, group);
      await group.close();
      assertEquals(backend.ledger.liveBytes(), 0, `left on rank ${group.rank} of ${ranks}`);
      return result;
    }),
  );
}

async function onTrainers<T>(
  { create }: StrategyCase,
  model: ModelConfig,
  train: TrainConfig,
  ranks: number,
  body: (trainer: Trainer, strategy: SequenceStrategy) => Promise<T>,
): Promise<T[]> {
  return await onRanks(ranks, async (backend, group) => {
    const strategy = create({ backend, group });
    using trainer = new Trainer({ backend, strategy, model, train });
    return await body(trainer, strategy);
  });
}

async function onOneRank<T>(
  model: ModelConfig,
  train: TrainConfig,
  body: (trainer: Trainer) => Promise<T>,
): Promise<T> {
  await using backend = createReferenceBackend({ poison: true });
  using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train });
  return await body(trainer);
}

function shardsOf({ shards = SHARD_STAGES }: StrategyCase): readonly ShardStage[] {
  return shards;
}

function skipOf({ skips }: StrategyCase, name: ShapeName, ranks: number): Skip | undefined {
  return skips.find((skip) => skip.shapes.includes(name) && skip.ranks.includes(ranks));
}

function trainConfig(
  { seqTokens, batch, longestDocument }: ConformanceShape,
  values: Record<string, unknown>,
): TrainConfig {
  return parseTrainConfig({ seqTokens, batch, packed: longestDocument !== undefined, ...values });
}
