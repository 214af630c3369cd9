/**
 * What a checkpoint holds besides weights and moments: how far training has come, and what it depends on.
 *
 * @module
 */

import { z } from "zod";
import { parseBySchema } from "../config/parse.ts";
import { type TrainConfig, trainSettingsSchema } from "../config/train_config.ts";
import type { LossScaleState } from "./loss_scale.ts";

/** What the losses do not depend on beyond rounding; a run that goes on from a checkpoint chooses it anew. */
const FREE_SETTINGS = {
  mlpChunks: true,
  headChunks: true,
  recompute: true,
  shard: true,
  offload: true,
  deviceCheckpoints: true,
  optimizerInBackward: true,
} as const;

/** Settings that older checkpoints lack, whose defaults are what these were trained with. */
const { precision, optimizerStates } = trainSettingsSchema.shape;

const savedSettingsSchema = trainSettingsSchema.omit(FREE_SETTINGS).required().extend({ precision, optimizerStates });

const lossScaleSchema = z.strictObject({
  scale: z.number().positive(),
  goodSteps: z.number().int().nonnegative(),
  skippedSteps: z.number().int().nonnegative(),
});

const textSchema = z.strictObject({
  file: z.string().optional(),
  separator: z.string().optional(),
  tokens: z.number().int().positive(),
  sha256: z.string(),
});

const trainerStateSchema = z.strictObject({
  format: z.literal("mst-checkpoint-1"),
  step: z.number().int().nonnegative(),
  train: savedSettingsSchema,
  lossScale: lossScaleSchema.optional(),
  text: textSchema.optional(),
});

/** Training settings that the losses depend on; see {@linkcode TrainConfig}. */
export type SavedSettings = z.infer<typeof savedSettingsSchema>;

/**
 * The training text: `file` that it was read from (Moby Dick if left out), `separator` between its documents (blank
 * lines if left out), and the number and hash of its `tokens`.
 */
export type SavedText = z.infer<typeof textSchema>;

/**
 * `step` that was taken last, settings `train`, the `lossScale` where the loss is scaled, and the training `text` where
 * there is one.
 */
export type TrainerState = z.infer<typeof trainerStateSchema>;

/** The state after a step. */
export function trainerState(
  step: number,
  train: TrainConfig,
  { text, lossScale }: { readonly text?: SavedText; readonly lossScale?: LossScaleState } = {},
): TrainerState {
  const settings = Object.entries(train).filter(([name]) => !Object.hasOwn(FREE_SETTINGS, name));
  return { format: "mst-checkpoint-1", step, train: Object.fromEntries(settings) as SavedSettings, lossScale, text };
}

/**
 * Validates what trainer_state.json holds.
 *
 * @throws {RangeError} with one line per violated rule
 */
export function parseTrainerState(values: unknown): TrainerState {
  return parseBySchema(trainerStateSchema, values);
}
