/**
 * How a model is trained, validated once.
 *
 * @module
 */

import { z } from "zod";
import { parseBySchema } from "./parse.ts";

const count = z.number().int().positive();

/** Which activations are kept for backward; the table in `recompute/policy.ts` says what each policy keeps. */
export const RECOMPUTE_POLICIES = ["none", "selective", "except-attention", "layer"] as const;

/**
 * What of a model's states ranks divide among themselves: nothing; AdamW's moments; gradients, too; or weights, too (ZeRO
 * stages 1 to 3, Rajbhandari et al. 2020).
 */
export const SHARD_STAGES = ["none", "optimizer", "gradients", "weights"] as const;

/** What can wait on the host while the device does not need it: the inputs of blocks, and AdamW's moments. */
export const OFFLOADS = ["checkpoints", "optimizer"] as const;

/**
 * Element types of a run: all numbers f32; or weights and activations f16, with f32 for sums over rows, norms, losses and
 * the gradients of weights (compare Micikevicius et al. 2018).
 */
export const PRECISION_NAMES = ["f32", "mixed"] as const;

/** Element type of AdamW's moments; `auto` takes bf16 where weights are f16, else f32. */
export const OPTIMIZER_STATES = ["auto", "f32", "bf16"] as const;

/** Number of mini-sequences: a count, or `auto` for the rule of `mini_sequence/auto_chunks.ts`. */
export const chunksSchema = z.union([z.literal("auto"), count]);

/** Schema of the single settings of {@linkcode TrainConfig}. */
export const trainSettingsSchema = z.strictObject({
  seqTokens: count.default(1024),
  batch: count.default(1),
  packed: z.boolean().default(false),
  accumulate: count.default(1),
  steps: count.default(10),
  seed: z.number().int().min(0).max(0xffffffff).default(0),
  mlpChunks: chunksSchema.default("auto"),
  headChunks: chunksSchema.default("auto"),
  recompute: z.enum(RECOMPUTE_POLICIES).default("layer"),
  shard: z.enum(SHARD_STAGES).default("none"),
  offload: z.array(z.enum(OFFLOADS)).default([]),
  deviceCheckpoints: count.default(1),
  precision: z.enum(PRECISION_NAMES).default("f32"),
  optimizerStates: z.enum(OPTIMIZER_STATES).default("auto"),
  learningRate: z.number().nonnegative().default(1e-3),
  warmupSteps: z.number().int().nonnegative().default(0),
  schedule: z.enum(["cosine", "constant"]).default("cosine"),
  minLearningRate: z.number().nonnegative().default(0),
  beta1: z.number().min(0).lt(1).default(0.9),
  beta2: z.number().min(0).lt(1).default(0.95),
  epsilon: z.number().positive().default(1e-8),
  weightDecay: z.number().nonnegative().default(0.1),
  clipNorm: z.number().nonnegative().default(1),
  optimizerInBackward: z.boolean().default(false),
});

/** Schema of {@linkcode TrainConfig}: single settings first, then how they fit together. */
export const trainConfigSchema = trainSettingsSchema.superRefine((train, context) => {
  const refuse = (message: string) => context.addIssue({ code: "custom", message });
  const { optimizerInBackward, clipNorm, accumulate, offload, recompute } = train;
  if (optimizerInBackward && clipNorm > 0) {
    refuse(`Cannot update in backward and clip to ${clipNorm}: the global norm is known after it, wanted clipNorm 0`);
  }
  if (optimizerInBackward && accumulate > 1) {
    refuse(`Cannot update in backward and accumulate ${accumulate} micro-batches: weights would change between them`);
  }
  if (offload.includes("checkpoints") && recompute !== "layer") {
    refuse(
      `Cannot offload checkpoints with recompute ${recompute}: it must be layer, which keeps nothing else of a block`,
    );
  }
});

/**
 * How a model is trained. `seqTokens` S of a whole sequence and `batch` B sequences make a micro-batch, `accumulate` of
 * which make a step. `packed` sequences consist of documents, whose boundaries come with each batch. `mlpChunks` and `headChunks` are mini-sequences per MLP and LM head (1: not split). AdamW with
 * `learningRate` after `warmupSteps` of linear warm-up, then `schedule` down to `minLearningRate` at `steps`.
 * `clipNorm` is the global gradient norm above which gradients are scaled down; 0 turns clipping off.
 * `offload` says what waits on the host while the device does not need it; the inputs of the last `deviceCheckpoints`
 * blocks stay on the device all the same.
 * `optimizerInBackward` updates weights as soon as their gradients are complete, and frees these.
 */
export type TrainConfig = z.infer<typeof trainConfigSchema>;

/** How far a model's states are sharded. */
export type ShardStage = TrainConfig["shard"];

/** What is kept on the host. */
export type Offload = TrainConfig["offload"][number];

/** Name of the element types of a run. */
export type PrecisionName = TrainConfig["precision"];

/** A recompute policy. */
export type RecomputePolicy = TrainConfig["recompute"];

/** Number of mini-sequences, or the rule for it. */
export type Chunks = z.infer<typeof chunksSchema>;

/**
 * Validates training settings and fills in defaults.
 *
 * @throws {RangeError} with one line per violated rule
 */
export function parseTrainConfig(values: unknown): TrainConfig {
  return parseBySchema(trainConfigSchema, values);
}
