/**
 * Peak device memory of a training step in closed form, held equal to the ledger by tests.
 *
 * Memory can peak at four moments, each a sum of terms in elements of four bytes; the estimate is the largest. Moments of
 * forward cannot be the peak, since the same moment of the last block's backward holds the same tensors and the gradient
 * beside them; neither can the embedding, which holds less than the head. Legend: T rows (B × local tokens), S local
 * tokens, D width, H query heads, K kv heads, E head dim, F MLP width, V vocabulary, L layers, C rows of a mini-sequence.
 *
 * @module
 */

import { PARTIAL_SUMS } from "../backend/ops.ts";
import { type ModelConfig, parameterCount } from "../config/model_config.ts";
import type { TrainConfig } from "../config/train_config.ts";
import { headChunkCount, longestChunk, mlpChunkCount } from "../mini_sequence/chunk_plan.ts";
import { attentionShape } from "../model/decoder.ts";
import { KEPT_TENSORS, keptElementsPerRow, recomputesMlp } from "../recompute/policy.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import { ELEMENT_BYTES } from "../tensor/shape.ts";

/** A moment of a step and the bytes live at it. */
export interface MemoryMoment {
  /** When in the step. */
  readonly moment: "head" | "mlp backward" | "attention backward" | "optimizer";
  /** Bytes of all tags. */
  readonly bytes: number;
}

/** Predicted device memory of one rank. */
export interface MemoryEstimate {
  /** Weights, gradients and optimizer states: what lives between steps. */
  readonly residentBytes: number;
  /** The highest total during a step. */
  readonly peakBytes: number;
  /** Every moment that can be the peak, highest first. */
  readonly moments: readonly MemoryMoment[];
}

/** The part of a strategy that the estimate asks. */
export type EstimatedStrategy = Pick<SequenceStrategy, "rank" | "partition" | "attentionMemory">;

/** Predicts the memory of training steps of one rank, as the ledger will count it. */
export function estimateMemory(model: ModelConfig, train: TrainConfig, strategy: EstimatedStrategy): MemoryEstimate {
  const partition = strategy.partition(train.seqTokens);
  const S = partition.positions[strategy.rank].length;
  const T = train.batch * S;
  const { dim: D, headDim: E, vocab: V, layers: L } = model;
  const attention = attentionElements(model, train, strategy, T);

  const parameters = parameterCount(model);
  const resident = 4 * parameters; // weights, gradients, and two moments
  const stepInputs = S + S * E + train.accumulate - 1; // positions, rotary table, losses of earlier micro-batches
  const base = resident + stepInputs;

  const perRow = keptElementsPerRow(model);
  const kept = T * KEPT_TENSORS[train.recompute].reduce((sum, tensor) => sum + perRow[tensor], 0); // of one layer
  const x = T * D; // input of a block, or the gradient of its output
  const lastBackward = base + (L - 1) * kept + 2 * x + 1; // input and gradient of the last block, and the loss
  const headRows = longestChunk(T, headChunkCount(train.headChunks, V, D));

  const elements: Record<MemoryMoment["moment"], number> = {
    "head": base + L * kept + 2 * x + 2 * T + headRows * (1 + D + V), // x, dx, labels, losses; rstd, normed, logits
    "mlp backward": lastBackward + attention.saved + x + mlpBackwardElements(model, train, T),
    "attention backward": lastBackward + attention.backward,
    "optimizer": resident + train.accumulate + 2 + PARTIAL_SUMS,
  };
  const moments = Object.entries(elements)
    .map(([moment, count]) => ({ moment, bytes: count * ELEMENT_BYTES }) as MemoryMoment)
    .sort((a, b) => b.bytes - a.bytes);
  return { residentBytes: resident * ELEMENT_BYTES, peakBytes: moments[0].bytes, moments };
}

/** Elements of an attention layer beyond its input and dy. */
function attentionElements(model: ModelConfig, train: TrainConfig, strategy: EstimatedStrategy, T: number) {
  const { dim: D, heads: H, kvHeads: K, headDim: E } = model;
  const core = strategy.attentionMemory(attentionShape(model, train.batch), strategy.partition(train.seqTokens));
  const qkv = T * (H + 2 * K) * E;
  const out = T * H * E;
  const saved = T + qkv + out + T * H; // rstd, q, k, v, out, log-sum-exp
  return {
    saved,
    backward: Math.max(
      saved + out + core.backwardBytes / ELEMENT_BYTES, // dOut and what the core holds
      T + qkv + T * D, // rstd, dq, dk, dv, and the normed input
    ),
  };
}

/** Elements of the MLP's mini-sequences beyond its input and dy. */
function mlpBackwardElements({ dim: D, ffn: F }: ModelConfig, train: TrainConfig, T: number): number {
  const C = longestChunk(T, mlpChunkCount(train.mlpChunks, T, D));
  const projected = 1 + 2 * F; // rstd, gate, up of a row
  const keptRows = recomputesMlp(train.recompute) ? C : T;
  return keptRows * projected + C * Math.max(D, F); // normed input or gradient of the activation
}
