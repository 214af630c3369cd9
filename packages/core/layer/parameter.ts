/**
 * Trainable weights.
 *
 * @module
 */

import type { Tensor } from "../tensor/tensor.ts";

/** A weight and the buffer its gradient accumulates into. */
export interface Parameter {
  /** Name in transformers' state dict, such as `model.layers.0.mlp.up_proj.weight`. */
  readonly name: string;
  /** The weight: [out, in] for projections, [V, D] for embeddings, [D] for norms. */
  readonly value: Tensor;
  /** Same shape as the weight; absent when the weight is frozen. */
  readonly gradient?: Tensor;
}

/**
 * Parameters that a part of a model computes with. Where ranks divide weights or gradients among themselves, those of a
 * group are whole only while they are asked for; a `ReferenceError` is thrown when they are used at another time.
 */
export interface ParameterGroup {
  /** Starts to fetch the weights from the ranks that hold them, so that `withWeights` need not wait as long. */
  prefetch(): void;
  /**
   * Runs `compute` with the weights whole.
   *
   * @param next group whose weights are wanted afterwards; they travel meanwhile
   */
  withWeights<T>(compute: () => Promise<T>, next?: ParameterGroup): Promise<T>;
  /** Runs `compute` with whole gradients to add to. */
  withGradients<T>(compute: () => Promise<T>): Promise<T>;
}
