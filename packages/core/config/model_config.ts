/**
 * Shape of a Llama-style decoder, validated once.
 *
 * @module
 */

import { z } from "zod";
import { parseBySchema } from "./parse.ts";

const count = z.number().int().positive();

/** Scaling of rotary frequencies by wavelength (Llama 3.1; transformers' rope_type "llama3"). */
export const ropeScalingSchema = z.strictObject({
  type: z.literal("llama3"),
  factor: z.number().positive(),
  lowFrequencyFactor: z.number().positive(),
  highFrequencyFactor: z.number().positive(),
  originalPositions: count,
});

/** Schema of {@linkcode ModelConfig}: single values first, then how they fit together. */
export const modelConfigSchema = z.strictObject({
  dim: count,
  layers: count,
  heads: count,
  kvHeads: count,
  headDim: count,
  ffn: count,
  vocab: count,
  normEpsilon: z.number().positive(),
  ropeTheta: z.number().positive(),
  ropeScaling: ropeScalingSchema.optional(),
  tiedEmbeddings: z.boolean(),
}).superRefine((model, context) => {
  const refuse = (message: string) => context.addIssue({ code: "custom", message });
  if (model.heads % model.kvHeads !== 0) {
    refuse(
      `Cannot share ${model.kvHeads} kv heads among ${model.heads} heads: heads must be a multiple of the kv heads`,
    );
  }
  if (model.headDim % 2 !== 0) refuse(`Cannot rotate a head dim of ${model.headDim}: it must be even`);
});

/**
 * Shape of a Llama-style decoder: width `dim` D, `layers`, query `heads` H, `kvHeads` K, `headDim` E, MLP width `ffn` F,
 * vocabulary `vocab` V, RMSNorm `normEpsilon`, rotary `ropeTheta` and `ropeScaling`, and whether the LM head shares the
 * embedding's weight.
 */
export type ModelConfig = z.infer<typeof modelConfigSchema>;

/** Rotary scaling of a model; see {@linkcode ropeScalingSchema}. */
export type RopeScaling = z.infer<typeof ropeScalingSchema>;

/**
 * Validates a model shape.
 *
 * @throws {RangeError} with one line per violated rule
 */
export function parseModelConfig(values: unknown): ModelConfig {
  return parseBySchema(modelConfigSchema, values);
}

/** Number of parameters: embedding, blocks, final norm and, unless tied, the LM head. */
export function parameterCount(model: ModelConfig): number {
  const { dim, headDim, heads, kvHeads, ffn, vocab, layers } = model;
  const block = 2 * dim + 2 * dim * headDim * (heads + kvHeads) + 3 * dim * ffn;
  return layers * block + dim + vocab * dim * (model.tiedEmbeddings ? 1 : 2);
}
