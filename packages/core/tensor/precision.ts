/**
 * Element types of what a model computes with.
 *
 * @module
 */

import type { PrecisionName, TrainConfig } from "../config/train_config.ts";
import type { DType } from "./shape.ts";

/** Element types of a model's tensors. What is not named here is f32, the gradients of weights among it. */
export interface Precision {
  /** Weights of two dims: projections and embeddings. */
  readonly weights: DType;
  /** Activations of a model's width and their gradients: what layers pass on follows from the input of the first. */
  readonly activations: DType;
}

/** The element types behind each name; products are added up in f32 under both. */
export const PRECISIONS: Readonly<Record<PrecisionName, Precision>> = {
  f32: { weights: "f32", activations: "f32" },
  mixed: { weights: "f16", activations: "f16" },
};

/** Element type of AdamW's moments. */
export function momentType({ precision, optimizerStates }: Pick<TrainConfig, "precision" | "optimizerStates">): DType {
  if (optimizerStates !== "auto") return optimizerStates;
  return precision === "mixed" ? "bf16" : "f32";
}
