/**
 * What a strategy whose ranks hold parts of the weights gives to the decoder, besides its attention.
 *
 * @module
 */

import type { Region, RowSlice } from "../layer/region.ts";
import type { LmHeadLossOptions, LmHeadWeights } from "../mini_sequence/lm_head_loss.ts";
import type { DType, Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Name and dims of a whole weight. */
export interface NamedShape {
  /** Name in transformers' state dict. */
  readonly name: string;
  /** Dims. */
  readonly shape: Shape;
}

/** A range of one dim of a weight. */
export interface WeightPart {
  /** Which dim is split: 0, the rows, or 1, the columns. */
  readonly dim: 0 | 1;
  /** First row or column of the part. */
  readonly start: number;
  /** Last row or column plus one. */
  readonly end: number;
}

/** Which part of a weight a rank holds. */
export interface Placement {
  /** The part; left out where the weight is held whole. */
  readonly part?: WeightPart;
  /** Ranks that hold the same, ascending; their gradients are summed. */
  readonly sharers: readonly number[];
}

/** Tokens of a micro-batch, and which ranks own them. */
export interface SplitBatch {
  /** Sequences B. */
  readonly batch: number;
  /** Positions of every rank's tokens in each sequence, as `TokenPartition` has them. */
  readonly positions: readonly Uint32Array[];
}

/** A micro-batch that is computed. */
export interface ComputedBatch extends SplitBatch {
  /** Element type of activations. */
  readonly activations: DType;
}

/** What the decoder computes with weights of which ranks hold parts, for one micro-batch. Shapes are this rank's. */
export interface SplitComputation {
  /** Wraps the projections of the blocks. */
  readonly region: Region;
  /** x [T, D] of this rank's tokens, owned by the caller; `ids` [B·S] are those of all ranks. */
  embed(ids: Uint32Array, table: Tensor): Promise<Tensor>;
  /** Adds to the gradient of the table; `ids` as in forward, dx [T, D]. */
  embedBackward(ids: Uint32Array, dx: Tensor, dTable: Tensor): Promise<void>;
  /**
   * Loss and its gradients as `lmHeadLoss` has them: total [1] is the sum of losses of this rank's rows, dx [T, D] the
   * gradient of x; both are owned by the caller. `labels` [B·S] are those of all ranks.
   */
  headLoss(
    x: Tensor,
    labels: Uint32Array,
    weights: LmHeadWeights,
    options: LmHeadLossOptions,
  ): Promise<{ total: Tensor; dx: Tensor }>;
  /** Logits of this rank's rows [T, V] on the host. */
  headLogits(x: Tensor, weights: LmHeadWeights, chunks: number): Promise<Float32Array>;
}

/** How the weights of a model are split over ranks. */
export interface WeightLayout {
  /** Ranks whose rows are gathered around projections, ascending, this one among them. */
  readonly members: readonly number[];
  /** Query heads of this rank's weights. */
  readonly heads: number;
  /** Key and value heads of this rank's weights. */
  readonly kvHeads: number;
  /** The part of a weight that a rank holds, this one unless told otherwise. */
  placement(weight: NamedShape, rank?: number): Placement;
  /** How the rows of a micro-batch are cut around attention; see `Region.slices`. */
  slices(batch: SplitBatch): readonly RowSlice[];
}

/** A model whose weights are split over ranks, and how ranks compute with them. Layers never ask. */
export interface TensorParallel extends WeightLayout {
  /** How a micro-batch is computed. */
  computation(batch: ComputedBatch): SplitComputation;
  /**
   * Replaces tensors by their sum over some ranks, this one among them, all of which call it; the result is the same to
   * the bit on all of them.
   */
  sumOver(ranks: readonly number[], tensors: readonly Tensor[]): Promise<void>;
}
