/**
 * Launcher of causal attention by online softmax (Dao et al. 2022).
 * Dims: B batch, Sq and Sk query and key tokens of one sequence, H query heads, K kv heads, E head dim.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import type { AttentionInputs, AttentionShape } from "../../ops.ts";
import type { Dispatcher } from "../dispatch.ts";
import { laneForward } from "./attention_lane_forward.ts";
import { launchAttention, sourceOnce } from "./attention_launch.ts";
import { tileForward } from "./attention_tile_forward.ts";
import { type AttentionVariant, chooseAttentionVariant, variantName } from "./attention_variant.ts";
import { FORWARD_OPERANDS } from "./attention_wgsl.ts";

/** Options of {@linkcode attention}. */
export interface AttentionOptions {
  /** Start from what out and logSumExp hold; see `Ops.attention`. Default false. */
  readonly resume?: boolean;
  /** How to compute it. Default: what should be fastest on the device. */
  readonly variant?: AttentionVariant;
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
  const variant = options.variant ?? chooseAttentionVariant("attention", shape.headDim, dispatcher);
  const tensors = { q, k, v, query_positions: queryPositions, key_positions: keyPositions, out, lse: logSumExp };
  launchAttention(
    dispatcher,
    {
      kernel: `attention ${variantName(variant)}`,
      variant,
      code: (layout, { keys }) => {
        const resume = keys.start > 0 || (options.resume ?? false);
        return sourceOnce(
          dispatcher,
          ["attention", variant, layout, resume],
          () => variant.kind === "tiles" ? tileForward(variant, layout, resume) : laneForward(variant, layout, resume),
        );
      },
      operands: FORWARD_OPERANDS,
      owners: "queries",
    },
    tensors,
    shape,
  );
}
