/**
 * What each recompute policy keeps between forward and backward.
 *
 * @module
 */

import type { RecomputePolicy } from "../config/train_config.ts";

/** What a decoder block may keep for its backward; `attention` is q, k, v, out and log-sum-exp as the strategy keeps them. */
export type KeptTensor =
  | "block input"
  | "attention rstd"
  | "attention"
  | "mlp input"
  | "mlp rstd"
  | "gate"
  | "up";

/**
 * Elements of each tensor.
 *
 * @param dim model width
 * @param rows rows of the local sequences
 * @param saved elements that the strategy's attention saves, and those of gate or up
 */
export function keptElements(
  dim: number,
  rows: number,
  { attention, projected }: { readonly attention: number; readonly projected: number },
): Record<KeptTensor, number> {
  return {
    "block input": rows * dim,
    "attention rstd": rows,
    "attention": attention,
    "mlp input": rows * dim,
    "mlp rstd": rows,
    "gate": projected,
    "up": projected,
  };
}

/**
 * The table: `none` keeps all that backward reads; `selective` recomputes the MLP, whose tensors are the largest and
 * cheapest to get back per byte, and never attention (compare Korthikanti et al. 2022, section 5, where attention without
 * online softmax was the large part); `layer` keeps the input of each block alone (Chen et al. 2016).
 */
export const KEPT_TENSORS: Readonly<Record<RecomputePolicy, readonly KeptTensor[]>> = {
  none: ["block input", "attention rstd", "attention", "mlp input", "mlp rstd", "gate", "up"],
  selective: ["block input", "attention rstd", "attention", "mlp input"],
  layer: ["block input"],
};

/** Whether a policy recomputes the MLP in backward. */
export function recomputesMlp(policy: RecomputePolicy): boolean {
  return !KEPT_TENSORS[policy].includes("gate");
}

/** Whether a policy recomputes attention in backward. */
export function recomputesAttention(policy: RecomputePolicy): boolean {
  return !KEPT_TENSORS[policy].includes("attention");
}
