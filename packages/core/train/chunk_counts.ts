/**
 * How many mini-sequences a run has.
 *
 * @module
 */

import type { ModelConfig } from "../config/model_config.ts";
import type { TrainConfig } from "../config/train_config.ts";
import { headChunkCount, mlpChunkCount } from "../mini_sequence/chunk_plan.ts";
import { type LayoutStrategy, weightLayout } from "../model/whole_weights.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";

/** Mini-sequences of a run, and the rows that are cut into them. */
export interface ChunkCounts {
  /** Mini-sequences of the MLP. */
  readonly mlpChunks: number;
  /** Mini-sequences of the LM head. */
  readonly headChunks: number;
  /** Rows of each rank whose rows are gathered around projections. */
  readonly rows: readonly number[];
}

/**
 * Mini-sequences of a run. Where rows of several ranks are gathered, `auto` counts those of all, so that a mini-sequence is
 * as long as on one rank, and there are no more mini-sequences than any rank has rows, so that all ranks have as many.
 */
export function chunkCounts(
  model: ModelConfig,
  train: TrainConfig,
  strategy: LayoutStrategy & Pick<SequenceStrategy, "partition">,
): ChunkCounts {
  const { positions } = strategy.partition(train.seqTokens);
  const rows = weightLayout(model, strategy).members.map((rank) => train.batch * positions[rank].length);
  const fewest = Math.min(...rows);
  const all = rows.reduce((sum, count) => sum + count, 0);
  return {
    mlpChunks: Math.min(fewest, mlpChunkCount(train.mlpChunks, all, model.dim)),
    headChunks: Math.min(fewest, headChunkCount(train.headChunks, model.vocab, model.dim)),
    rows,
  };
}
