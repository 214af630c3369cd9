/**
 * Which part of the optimizer's states a rank holds, and what ranks exchange around an update because of it.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { PARTIAL_SUMS } from "../backend/ops.ts";
import type { ShardStage } from "../config/train_config.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { segmentBounds } from "../transport/collectives.ts";

/** How optimizer states are divided among ranks. */
export interface StateSharding {
  /** Elements of a tensor of `size` elements whose states this rank holds; may be none. */
  own(size: number): { readonly start: number; readonly end: number };
  /** Sums gradients over ranks, at least the elements that this rank owns. */
  reduceGradients(gradients: readonly Tensor[]): Promise<void>;
  /** Turns partial sums of squares [PARTIAL_SUMS] of the own elements into ones of all elements. */
  sumSquares(partials: Tensor): Promise<void>;
  /** Gives every rank the updated weights whole. */
  gatherWeights(weights: readonly Tensor[]): Promise<void>;
}

/**
 * The division that `shard` names: every rank holds all states, or one segment of each parameter's (ZeRO stage 1,
 * Rajbhandari et al. 2020, section 5.1). With one rank there is nothing to divide.
 */
export function createStateSharding(
  backend: Backend,
  strategy: SequenceStrategy,
  shard: ShardStage,
): StateSharding {
  if (shard === "none" || strategy.ranks === 1) {
    return {
      own: (size) => ({ start: 0, end: size }),
      reduceGradients: (gradients) => strategy.reduceGradients(gradients),
      sumSquares: () => Promise.resolve(),
      gatherWeights: () => Promise.resolve(),
    };
  }
  return {
    own: (size) => segmentBounds(size, strategy.ranks, strategy.rank),
    reduceGradients: (gradients) => strategy.reduceScatterGradients(gradients),
    async sumSquares(partials: Tensor): Promise<void> {
      const own = (await backend.read(partials)).reduce((total, partial) => total + partial, 0);
      const [squares] = await strategy.sumOverRanks([own]);
      const sums = new Float32Array(PARTIAL_SUMS);
      sums[0] = squares;
      backend.write(partials, sums);
    },
    gatherWeights: (weights) => strategy.gatherWeights(weights),
  };
}

/** Elements whose states rank `rank` of `ranks` holds, of tensors of these sizes. */
export function ownedElements(
  sizes: readonly number[],
  { rank, ranks }: Pick<SequenceStrategy, "rank" | "ranks">,
  shard: ShardStage,
): number {
  const owned = sizes.map((size) => {
    const { start, end } = segmentBounds(size, ranks, rank);
    return shard === "none" ? size : end - start;
  });
  return owned.reduce((sum, count) => sum + count, 0);
}
