/**
 * Launcher of causal attention by online softmax (Dao et al. 2022).
 * Dims: B batch, Sq and Sk query and key tokens of one sequence, H query heads, K kv heads, E head dim.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import type { AttentionInputs, AttentionShape } from "../../ops.ts";
import type { Dispatcher } from "../dispatch.ts";
import { chooseForwardVariant, type ForwardVariant } from "./attention_forward_variant.ts";
import { laneForward } from "./attention_lane_forward.ts";
import { areMatrixRows, attentionForm, launchAttention, MATRIX_LOAD } from "./attention_launch.ts";
import { matrixForward } from "./attention_matrix_forward.ts";
import { tileForward } from "./attention_tile_forward.ts";
import { type AttentionVariant, chooseAttentionVariant, variantName } from "./attention_variant.ts";
import { type AttentionLayout, FORWARD_OPERANDS } from "./attention_wgsl.ts";

/** Options of {@linkcode attention}. */
export interface AttentionOptions {
  /** Start from what out and logSumExp hold; see `Ops.attention`. Default false. */
  readonly resume?: boolean;
  /** How to compute it. Default: what should be fastest on the device. */
  readonly variant?: AttentionVariant | ForwardVariant;
}

/** Launches `Ops.attention`. Keys that do not fit a binding come in blocks, each resuming from the one before. */
export function attention(
  dispatcher: Dispatcher,
  { q, k, v, queryPositions, keyPositions }: AttentionInputs,
  out: Tensor,
  logSumExp: Tensor,
  shape: AttentionShape,
  options: AttentionOptions = {},
): void {
  const rows = [q, k, v, out];
  const variant = options.variant ??
    (areMatrixRows(rows) ? chooseForwardVariant(shape.headDim, dispatcher) : undefined) ??
    chooseAttentionVariant("attention", shape.headDim, dispatcher);
  const tensors = { q, k, v, query_positions: queryPositions, key_positions: keyPositions, out, lse: logSumExp };
  const kernel = `attention ${variantName(variant)}`;
  launchAttention(
    dispatcher,
    {
      kernel,
      variant,
      code: (layout, { keys }) => {
        const resume = keys.start > 0 || (options.resume ?? false);
        const form = attentionForm(variant, layout, Number(resume));
        return { key: kernel, form, write: () => forwardCode(variant, layout, resume) };
      },
      operands: FORWARD_OPERANDS,
      owners: "queries",
      loadElements: variant.kind === "forward_matrices" ? MATRIX_LOAD : undefined,
    },
    tensors,
    shape,
  );
}

function forwardCode(variant: AttentionVariant | ForwardVariant, layout: AttentionLayout, resume: boolean): string {
  if (variant.kind === "forward_matrices") return matrixForward(variant, layout, resume);
  return variant.kind === "tiles" ? tileForward(variant, layout, resume) : laneForward(variant, layout, resume);
}
