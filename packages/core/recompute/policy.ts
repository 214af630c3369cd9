/**
 * What each recompute policy keeps between forward and backward.
 *
 * @module
 */

import type { ModelConfig } from "../config/model_config.ts";
import type { RecomputePolicy } from "../config/train_config.ts";

/** A tensor that a decoder block may keep for its backward. */
export type KeptTensor =
  | "block input"
  | "attention rstd"
  | "query"
  | "key"
  | "value"
  | "attention out"
  | "log-sum-exp"
  | "mlp input"
  | "mlp rstd"
  | "gate"
  | "up";

/** Elements of each tensor per row of the local sequence. */
export function keptElementsPerRow(model: ModelConfig): Record<KeptTensor, number> {
  const { dim, ffn, heads, kvHeads, headDim } = model;
  return {
    "block input": dim,
    "attention rstd": 1,
    "query": heads * headDim,
    "key": kvHeads * headDim,
    "value": kvHeads * headDim,
    "attention out": heads * headDim,
    "log-sum-exp": heads,
    "mlp input": dim,
    "mlp rstd": 1,
    "gate": ffn,
    "up": ffn,
  };
}

const ATTENTION: readonly KeptTensor[] = ["attention rstd", "query", "key", "value", "attention out", "log-sum-exp"];

/**
 * The table: `none` keeps all that backward reads; `selective` recomputes the MLP, whose tensors are the largest and
 * cheapest to get back per byte, and never attention (compare Korthikanti et al. 2022, section 5, where attention without
 * online softmax was the large part); `layer` keeps the input of each block alone (Chen et al. 2016).
 */
export const KEPT_TENSORS: Readonly<Record<RecomputePolicy, readonly KeptTensor[]>> = {
  none: ["block input", ...ATTENTION, "mlp input", "mlp rstd", "gate", "up"],
  selective: ["block input", ...ATTENTION, "mlp input"],
  layer: ["block input"],
};

/** Whether a policy recomputes the MLP in backward. */
export function recomputesMlp(policy: RecomputePolicy): boolean {
  return !KEPT_TENSORS[policy].includes("gate");
}

/** Whether a policy recomputes attention in backward. */
export function recomputesAttention(policy: RecomputePolicy): boolean {
  return !KEPT_TENSORS[policy].includes("query");
}
