/**
 * Tiny models and seeded batches for tests.
 *
 * @module
 */

import { IGNORED_LABEL, type ModelConfig, parseModelConfig, type TokenBatch } from "@mst/core";
import { documentStarts, randomLengths } from "./documents.ts";
import { Random } from "./random.ts";

/** A model small enough for the reference backend; any value can be replaced. */
export function tinyModel(values: Partial<ModelConfig> = {}): ModelConfig {
  return parseModelConfig({
    dim: 16,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 4,
    ffn: 24,
    vocab: 40,
    normEpsilon: 1e-5,
    ropeTheta: 10000,
    tiedEmbeddings: false,
    ...values,
  });
}

/**
 * Random tokens and labels; a share of the labels is ignored. With `longestDocument`, sequences consist of documents of
 * up to so many tokens.
 */
export function randomBatch(
  model: ModelConfig,
  seqTokens: number,
  { batch = 1, seed = 1, ignored = 0, longestDocument }: {
    batch?: number;
    seed?: number;
    ignored?: number;
    longestDocument?: number;
  } = {},
): TokenBatch {
  const random = new Random(seed);
  const inputs = random.integers(batch * seqTokens, model.vocab);
  const labels = random.integers(batch * seqTokens, model.vocab)
    .map((label) => random.uniform() < ignored ? IGNORED_LABEL : label);
  if (longestDocument === undefined) return { batch, inputs, labels };
  const lengths = Array.from({ length: batch }, () => randomLengths(seqTokens, longestDocument, random));
  return { batch, inputs, labels, documentStarts: documentStarts(lengths) };
}
