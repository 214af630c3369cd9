/**
 * Launchers of the backward of attention: one kernel whose workgroups own queries gives dq, one whose workgroups own
 * keys gives dk and dv, so that every sum has one owner and its order is fixed.
 * Dims: B batch, Sq and Sk query and key tokens of one sequence, H query heads, K kv heads, E head dim.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import type { AttentionInputs, AttentionShape } from "../../ops.ts";
import type { Dispatcher } from "../dispatch.ts";
import { laneKeyGradient, laneQueryGradient } from "./attention_lane_backward.ts";
import { type AttentionLaunch, launchAttention, sourceOnce } from "./attention_launch.ts";
import { tileKeyGradient, tileQueryGradient } from "./attention_tile_backward.ts";
import { type AttentionVariant, chooseAttentionVariant, variantName } from "./attention_variant.ts";
import { ALL_TERMS, backwardOperands, type BackwardTerms } from "./attention_wgsl.ts";

/** Options of {@linkcode attentionBackward}. */
export interface AttentionBackwardOptions {
  /** How to compute dq. Default: what should be fastest on the device. */
  readonly queryVariant?: AttentionVariant;
  /** How to compute dk and dv. Default: what should be fastest on the device. */
  readonly keyVariant?: AttentionVariant;
}

/** The terms one by one, for devices whose kernels have too few bindings for all at once; each takes 8 at most. */
const SINGLE_TERMS: readonly BackwardTerms[] = [
  { dWeight: true, delta: false, value: false },
  { dWeight: false, delta: true, value: false },
  { dWeight: false, delta: false, value: true },
];

/** Launches `Ops.attentionBackward`. Queries and keys that do not fit a binding come in blocks that add up. */
export function attentionBackward(
  dispatcher: Dispatcher,
  { q, k, v, queryPositions, keyPositions }: AttentionInputs,
  dOut: Tensor,
  logSumExp: Tensor,
  delta: Tensor,
  { dq, dk, dv }: { dq: Tensor; dk: Tensor; dv: Tensor },
  shape: AttentionShape,
  options: AttentionBackwardOptions = {},
): void {
  const tensors = {
    ...{ q, k, v, query_positions: queryPositions, key_positions: keyPositions },
    ...{ d_out: dOut, lse: logSumExp, delta, dq, dk, dv },
  };
  const queryVariant = options.queryVariant ?? chooseAttentionVariant("attention_dq", shape.headDim, dispatcher);
  const keyVariant = options.keyVariant ?? chooseAttentionVariant("attention_dkv", shape.headDim, dispatcher);
  const launches = [
    ...fittingTerms(dispatcher, "queries").map((terms) => queryGradient(dispatcher, queryVariant, terms)),
    ...fittingTerms(dispatcher, "keys").map((terms) => keyGradient(dispatcher, keyVariant, terms)),
  ];
  for (const launch of launches) launchAttention(dispatcher, launch, tensors, shape);
}

/** All terms at once if the device has bindings enough, else one by one. */
function fittingTerms({ limits }: Dispatcher, owners: "queries" | "keys"): readonly BackwardTerms[] {
  if (backwardOperands(owners, ALL_TERMS).length <= limits.maxStorageBuffers) return [ALL_TERMS];
  return owners === "queries" ? SINGLE_TERMS.filter(({ value }) => !value) : SINGLE_TERMS;
}

function queryGradient(dispatcher: Dispatcher, variant: AttentionVariant, terms: BackwardTerms): AttentionLaunch {
  return {
    kernel: `attention_dq ${variantName(variant)}`,
    variant,
    code: (layout) =>
      sourceOnce(
        dispatcher,
        ["attention_dq", variant, layout, terms],
        () => variant.kind === "tiles" ? tileQueryGradient(variant, layout, terms) : laneQueryGradient(variant, layout),
      ),
    operands: backwardOperands("queries", terms),
    owners: "queries",
  };
}

function keyGradient(dispatcher: Dispatcher, variant: AttentionVariant, terms: BackwardTerms): AttentionLaunch {
  return {
    kernel: `attention_dkv ${variantName(variant)}`,
    variant,
    code: (layout) =>
      sourceOnce(
        dispatcher,
        ["attention_dkv", variant, layout, terms],
        () => variant.kind === "tiles" ? tileKeyGradient(variant, layout, terms) : laneKeyGradient(variant, layout),
      ),
    operands: backwardOperands("keys", terms),
    owners: "keys",
  };
}
