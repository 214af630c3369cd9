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
