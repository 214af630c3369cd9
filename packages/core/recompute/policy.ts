/**
 * What each recompute policy keeps between forward and backward.
 *
 * @module
 */

import type { RecomputePolicy } from "../config/train_config.ts";
import { type DType, ELEMENT_BYTES, elementBytes } from "../tensor/shape.ts";

/**
 * What a decoder block may keep for its backward; `attention` is q, k, v, out and log-sum-exp as the strategy keeps them,
 * `attention output` the last two.
 */
export type KeptTensor =
  | "block input"
  | "attention rstd"
  | "attention"
  | "attention output"
  | "mlp input"
  | "mlp rstd"
  | "gate"
  | "up";

/** What {@linkcode keptBytes} depends on. */
export interface KeptSizes {
  /** Model width. */
  readonly dim: number;
  /** Rows of the local sequences. */
  readonly rows: number;
  /** Bytes that the strategy's attention saves. */
  readonly attentionBytes: number;
  /** Bytes that it keeps of these where q, k and v are computed again. */
  readonly attentionOutputBytes: number;
  /** Elements of gate, and of up. */
  readonly projected: number;
  /** Element type of activations. */
  readonly activations: DType;
}

/** Bytes of each tensor. */
export function keptBytes(
  { dim, rows, attentionBytes, attentionOutputBytes, projected, activations }: KeptSizes,
): Record<KeptTensor, number> {
  const each = elementBytes(activations);
  return {
    "block input": rows * dim * each,
    "attention rstd": rows * ELEMENT_BYTES,
    "attention": attentionBytes,
    "attention output": attentionOutputBytes,
    "mlp input": rows * dim * each,
    "mlp rstd": rows * ELEMENT_BYTES,
    "gate": projected * each,
    "up": projected * each,
  };
}

/**
 * The table: `none` keeps all that backward reads; `selective` recomputes the MLP, whose tensors are the largest and
 * cheapest to get back per byte, and never attention (compare Korthikanti et al. 2022, section 5, where attention without
 * online softmax was the large part); `except-attention` recomputes all but attention itself, whose cost grows with the
 * square of the tokens (Li et al. 2023, section 3.3); `layer` keeps the input of each block alone (Chen et al. 2016).
 */
export const KEPT_TENSORS: Readonly<Record<RecomputePolicy, readonly KeptTensor[]>> = {
  none: ["block input", "attention rstd", "attention", "mlp input", "mlp rstd", "gate", "up"],
  selective: ["block input", "attention rstd", "attention", "mlp input"],
  "except-attention": ["block input", "attention output"],
  layer: ["block input"],
};

/** Whether a policy recomputes the MLP in backward. */
export function recomputesMlp(policy: RecomputePolicy): boolean {
  return !KEPT_TENSORS[policy].includes("gate");
}

/** Whether a policy recomputes attention in backward. */
export function recomputesAttention(policy: RecomputePolicy): boolean {
  return !KEPT_TENSORS[policy].includes("attention") && !keepsAttentionOutput(policy);
}

/** Whether a policy recomputes everything but attention, of which it keeps the output and log-sum-exp. */
export function keepsAttentionOutput(policy: RecomputePolicy): boolean {
  return KEPT_TENSORS[policy].includes("attention output");
}
