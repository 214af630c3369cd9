/**
 * A decoder block: attention, then the MLP mini-sequence by mini-sequence, under a recompute policy.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { RecomputePolicy } from "../config/train_config.ts";
import type { Layer } from "../layer/layer.ts";
import { sequential } from "../layer/sequential.ts";
import { miniSequence } from "../mini_sequence/mini_sequence.ts";
import { keepsAttentionOutput, recomputesAttention, recomputesMlp } from "../recompute/policy.ts";
import { recompute } from "../recompute/recompute.ts";
import { recomputeSecond } from "../recompute/recompute_second.ts";
import { type AttentionLayerOptions, createAttentionLayer } from "./attention.ts";
import { createMlpLayer } from "./mlp.ts";
import type { BlockParameters } from "./parameters.ts";

/** How a block runs. */
export interface DecoderBlockOptions extends AttentionLayerOptions {
  /** Number of mini-sequences of the MLP. */
  readonly mlpChunks: number;
  /** What is kept for backward. */
  readonly policy: RecomputePolicy;
  /** Wraps the block where the policy keeps its input alone. Default: `recompute`. */
  readonly recomputeBlock?: (block: Layer) => Layer;
}

/** The block as a layer over this rank's rows [B·S, D]. */
export function createDecoderBlock(
  backend: Backend,
  weights: BlockParameters,
  { mlpChunks, policy, recomputeBlock = recompute, ...attentionOptions }: DecoderBlockOptions,
): Layer {
  const recomputed = recomputesAttention(policy);
  const projectsAgain = keepsAttentionOutput(policy);
  const attention = createAttentionLayer(backend, weights, { ...attentionOptions, recomputed, projectsAgain });
  const mlp = createMlpLayer(backend, weights, attentionOptions.normEpsilon, attentionOptions.region);
  const slicedMlp = miniSequence(recomputesMlp(policy) ? recompute(mlp) : mlp, { chunks: mlpChunks });
  if (projectsAgain) return recomputeSecond(attention, slicedMlp);
  const block = sequential(attention, slicedMlp);
  return recomputed ? recomputeBlock(block) : block;
}
