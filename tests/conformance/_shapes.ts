/**
 * Models and batches that every strategy is tried on.
 *
 * @module
 */

import type { ModelConfig, TokenBatch } from "@mst/core";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

/** A shape that strategies are tried on. */
export interface ConformanceShape {
  readonly model: ModelConfig;
  readonly seqTokens: number;
  readonly batch: number;
  /** Most tokens of a document; left out: every sequence is one. */
  readonly longestDocument?: number;
}

/** Every shape by its name; the ranks go from 1 to 5. */
export const SHAPES = {
  "ragged": shape(37),
  "as many tokens as ranks": shape(5),
  "fewer tokens than half blocks": shape(7, {}, 2),
  "multi-query, batches": shape(26, { kvHeads: 1 }, 3),
  "multi-head, tied": shape(33, { kvHeads: 4, tiedEmbeddings: true }),
  "fifteen heads in groups of five": shape(31, { heads: 15, kvHeads: 3 }),
  "fifteen heads, multi-query": shape(22, { heads: 15, kvHeads: 1 }, 2),
  "packed documents": { ...shape(41), longestDocument: 17 },
  "packed documents, shorter than any block, batches": { ...shape(29, { kvHeads: 1 }, 3), longestDocument: 3 },
} as const satisfies Record<string, ConformanceShape>;

/** Name of a shape. */
export type ShapeName = keyof typeof SHAPES;

/** Shapes whose heads only 3, 5 and 15 ranks can share. */
export const FIFTEEN_HEADS: readonly ShapeName[] = ["fifteen heads in groups of five", "fifteen heads, multi-query"];

/** Shapes whose heads only 2 and 4 ranks can share. */
export const FOUR_HEADS = (Object.keys(SHAPES) as ShapeName[]).filter((name) => !FIFTEEN_HEADS.includes(name));

/** A shape that eight ranks can share under every strategy, those with fewer kv heads than ranks included. */
export const FOR_EIGHT_RANKS: ConformanceShape = { ...shape(43, { heads: 8, kvHeads: 2 }, 2), longestDocument: 20 };

/** Different batches of a shape, in which three labels of ten are ignored. */
export function randomBatches(
  { model, seqTokens, batch, longestDocument }: ConformanceShape,
  count: number,
): TokenBatch[] {
  return Array.from(
    { length: count },
    (_, i) => randomBatch(model, seqTokens, { batch, seed: i + 1, ignored: 0.3, longestDocument }),
  );
}

function shape(seqTokens: number, model: Partial<ModelConfig> = {}, batch = 1): ConformanceShape {
  return { model: tinyModel(model), seqTokens, batch };
}
