/**
 * Training that is interrupted: steps, a checkpoint, and further steps from it, under any strategy.
 *
 * @module
 */

import {
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  keptOfWeights,
  type ModelConfig,
  parseTrainConfig,
  type ProcessGroup,
  readModelWeights,
  type SequenceStrategy,
  type TokenBatch,
  type TrainConfig,
  Trainer,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { type Mesh, strategyEntry } from "../../packages/bench/scenario.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

/** Heads for four ranks; widths that no number of ranks divides. */
export const MODEL = tinyModel({ layers: 2, dim: 16, heads: 4, kvHeads: 2, headDim: 4, ffn: 26, vocab: 43 });

/** How a part of a training is run. */
export interface Way {
  /** Makes the strategy of a rank. */
  readonly create: (options: { backend: Backend; group: ProcessGroup }) => SequenceStrategy;
  /** Number of ranks. */
  readonly ranks: number;
  /** Settings that do not change the losses. */
  readonly train?: Partial<TrainConfig>;
}

/** Ways to train, by name. */
export const WAYS = {
  single: { create: ({ backend }) => createSingleStrategy(backend), ranks: 1 },
  ring: { create: createRingStrategy, ranks: 3 },
  ulysses: { create: createUlyssesStrategy, ranks: 2 },
  usp: { create: usp({ ulysses: 2, ring: 2 }), ranks: 4 },
  megatron: { create: createMegatronStrategy, ranks: 2 },
  "megatron that shares kv heads": { create: createMegatronStrategy, ranks: 4 },
  "shard optimizer": { create: createRingStrategy, ranks: 3, train: { shard: "optimizer" } },
  "shard gradients": { create: createUlyssesStrategy, ranks: 4, train: { shard: "gradients" } },
  "shard weights": { create: createRingStrategy, ranks: 2, train: { shard: "weights", recompute: "none" } },
  "all offloaded": {
    ...{ create: createRingStrategy, ranks: 2 },
    train: { shard: "optimizer", offload: ["checkpoints", "optimizer"] },
  },
} as const satisfies Record<string, Way>;

function usp(mesh: Mesh): Way["create"] {
  return (options) => strategyEntry("usp").create({ ...options, placement: "zigzag", mesh });
}

/** Steps of a whole training. */
export const STEPS = 6;

/** Options of {@linkcode train}. */
export interface TrainOptions {
  /** Shape of the model. */
  readonly model?: ModelConfig;
  /** Weights to start from; of the seed when left out. */
  readonly weights?: ReadonlyMap<string, Float32Array>;
  /** Checkpoint to go on from, and its step. */
  readonly resume?: { readonly folder: string; readonly step: number };
  /** Last step to take. */
  readonly until?: number;
  /** Where to save a checkpoint then. */
  readonly save?: string;
}

/** Trains on every rank; gives losses and gradient norms, which are the same on all of them, and peaks of device bytes. */
export async function train(way: Way, options: TrainOptions = {}): Promise<{ reports: number[][]; peaks: number[] }> {
  const ranks = await Promise.all(createLoopbackGroups(way.ranks).map((group) => trainRank(way, group, options)));
  return { reports: ranks[0].reports, peaks: ranks.map(({ peak }) => peak) };
}

/** Trains on one rank of a group, which is closed at the end. */
export async function trainRank(
  way: Way,
  group: ProcessGroup,
  { model = MODEL, weights, resume, until = STEPS, save }: TrainOptions,
): Promise<{ reports: number[][]; peak: number }> {
  await using backend = createReferenceBackend({ poison: true });
  const strategy = way.create({ backend, group });
  const config = parseTrainConfig({ seqTokens: 13, steps: STEPS, learningRate: 0.01, warmupSteps: 2, ...way.train });
  const given = resume
    ? await readModelWeights(resume.folder, model, keptOfWeights(model, strategy, config.shard))
    : weights;
  const reports: number[][] = [];
  {
    using trainer = new Trainer({ backend, strategy, model, train: config, weights: given });
    if (resume) await trainer.resume(resume.folder, resume.step);
    for (let step = resume?.step ?? 0; step < until; step++) {
      const { loss, gradNorm, step: number, learningRate } = await trainer.step([batchOf(model, step)]);
      reports.push([number, loss, gradNorm, learningRate]);
    }
    if (save !== undefined) await trainer.save(save);
  }
  await group.close();
  if (backend.ledger.liveBytes() > 0) throw new Error(`Rank ${group.rank} has left bytes behind`);
  return { reports, peak: backend.ledger.peak().totalBytes };
}

function batchOf(model: ModelConfig, step: number): TokenBatch {
  return randomBatch(model, 13, { seed: step + 1, ignored: 0.2 });
}
