/**
 * How many mini-sequences a run has.
 *
 * @module
 */

import type { ModelConfig } from "../config/model_config.ts";
import type { Chunks, TrainConfig } from "../config/train_config.ts";
import { autoChunks, type MiniSequences } from "../mini_sequence/auto_chunks.ts";
import { type LayoutStrategy, weightLayout } from "../model/whole_weights.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";

/** Mini-sequences of a run, and the rows that are cut into them. */
export interface ChunkCounts extends MiniSequences {
  /** Rows of each rank whose rows are gathered around projections. */
  readonly rows: readonly number[];
}

/**
 * Mini-sequences of a run: given numbers, or what `autoChunks` takes. Where rows of several ranks are gathered, it takes
 * those of all, and there are no more mini-sequences than any rank has rows, so that all ranks have as many.
 */
export function chunkCounts(
  model: ModelConfig,
  train: TrainConfig,
  strategy: LayoutStrategy & Pick<SequenceStrategy, "partition">,
): ChunkCounts {
  const { positions } = strategy.partition(train.seqTokens);
  const { members, heads, kvHeads } = weightLayout(model, strategy);
  const rows = members.map((rank) => train.batch * positions[rank].length);
  const fewest = Math.min(...rows);
  const all = rows.reduce((sum, count) => sum + count, 0);
  const auto = autoChunks(model, { rows: all, ranks: members.length, heads, kvHeads });
  const count = (given: Chunks, otherwise: number) => Math.min(fewest, given === "auto" ? otherwise : given);
  return {
    mlpChunks: count(train.mlpChunks, auto.mlpChunks),
    headChunks: count(train.headChunks, auto.headChunks),
    rows,
  };
}
