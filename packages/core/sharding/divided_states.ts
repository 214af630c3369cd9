/**
 * Which elements of a model's states a rank keeps and updates.
 *
 * @module
 */

import type { ModelConfig } from "../config/model_config.ts";
import type { ShardStage, TrainConfig } from "../config/train_config.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import type { NamedShape } from "../strategy/tensor_parallel.ts";
import { UnsupportedTopologyError } from "../strategy/unsupported.ts";
import { elementCount } from "../tensor/shape.ts";
import { pairedSegment, type Segment } from "../transport/collectives.ts";
import { type PartRuns, partRuns, segmentRuns } from "./weight_part.ts";

/** Where ranks meet for their states. */
type Ranks = Pick<SequenceStrategy, "rank" | "ranks">;

/** What of a model's training says where its states are. */
export type StateSettings =
  & Pick<TrainConfig, "shard">
  & Partial<Pick<TrainConfig, "optimizerInBackward" | "precision">>;

/** What says whether ranks can update in backward. */
export interface UpdatingRanks extends Pick<SequenceStrategy, "name" | "ranks"> {
  /** Whether ranks hold parts of the weights. Default false. */
  readonly splitsWeights?: boolean;
}

/**
 * Refuses to update in backward where ranks do not hold all states whole.
 *
 * @throws {UnsupportedTopologyError} when several ranks divide states among themselves
 */
export function checkUpdateInBackward(
  { name, ranks, splitsWeights = false }: UpdatingRanks,
  { optimizerInBackward, shard }: StateSettings,
): void {
  if (!optimizerInBackward || ranks === 1) return;
  if (splitsWeights) {
    throw new UnsupportedTopologyError(
      `Cannot update in backward under ${name} over ${ranks} ranks: each holds a part of the weights, ` +
        "wanted a strategy whose ranks hold all of them",
    );
  }
  if (shard === "none") return;
  throw new UnsupportedTopologyError(
    `Cannot update in backward over ${ranks} ranks with shard ${shard}: each has to update whole weights, ` +
      "wanted shard none",
  );
}

/** Which states ranks divide among themselves. */
export function dividedStates(
  { ranks }: Pick<Ranks, "ranks">,
  shard: ShardStage,
): { readonly weights: boolean; readonly gradients: boolean; readonly moments: boolean } {
  const isDivided = ranks > 1;
  return {
    weights: isDivided && shard === "weights",
    gradients: isDivided && (shard === "weights" || shard === "gradients"),
    moments: isDivided && shard !== "none",
  };
}

/** Which elements of a weight of a model a rank keeps, and so has to be given. */
export function keptOfWeights(
  model: ModelConfig,
  strategy: Ranks & Pick<SequenceStrategy, "tensorParallel">,
  shard: ShardStage,
): (weight: NamedShape) => PartRuns {
  const split = strategy.tensorParallel?.(model);
  if (split) return (weight) => partRuns(weight.shape, split.placement(weight).part);
  const { weights } = dividedStates(strategy, shard);
  return ({ shape }) => {
    const size = elementCount(shape);
    return segmentRuns(size, ownSegment(size, strategy, weights));
  };
}

/** Elements that a rank keeps of a state of `size` elements. */
export function ownSegment(size: number, { rank, ranks }: Ranks, isDivided: boolean): Segment {
  return isDivided ? pairedSegment(size, ranks, rank) : wholeSegment(size);
}

/** All elements of a state. */
export function wholeSegment(size: number): Segment {
  return { start: 0, end: size };
}
