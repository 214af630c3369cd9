/**
 * Peak device memory of a training step in closed form, held equal to the ledger by tests.
 *
 * Memory can peak at five moments, each a sum of terms in elements of four bytes; the estimate is the largest. Of forward
 * only attention can be the peak, where a strategy needs more for its exchange than in backward; other moments of forward
 * cannot, since the same moment of the last block's backward holds the same tensors and the gradient beside them; neither
 * can the embedding, which holds less than the head. Legend: T rows (B × local tokens), S local
 * tokens, D width, H query heads, K kv heads, E head dim, F MLP width, V vocabulary, L layers, C rows of a mini-sequence.
 *
 * @module
 */

import { PARTIAL_SUMS } from "../backend/ops.ts";
import type { ModelConfig } from "../config/model_config.ts";
import type { TrainConfig } from "../config/train_config.ts";
import { headChunkCount, longestChunk, mlpChunkCount } from "../mini_sequence/chunk_plan.ts";
import { attentionShape } from "../model/decoder.ts";
import { blockShapes, parameterSpecs } from "../model/parameters.ts";
import { KEPT_TENSORS, keptElements, recomputesAttention, recomputesMlp } from "../recompute/policy.ts";
import type { AttentionMemory, SequenceStrategy } from "../strategy/strategy.ts";
import { dividedStates, ownSegment } from "../sharding/model_states.ts";
import { ELEMENT_BYTES, elementCount, type Shape } from "../tensor/shape.ts";

/** A moment of a step and the bytes live at it. */
export interface MemoryMoment {
  /** When in the step. */
  readonly moment: "attention forward" | "head" | "mlp backward" | "attention backward" | "optimizer";
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
export type EstimatedStrategy = Pick<SequenceStrategy, "rank" | "ranks" | "partition" | "attentionMemory">;

/** Predicts the memory of training steps of one rank, as the ledger will count it. */
export function estimateMemory(model: ModelConfig, train: TrainConfig, strategy: EstimatedStrategy): MemoryEstimate {
  const partition = strategy.partition(train.seqTokens);
  const S = partition.positions[strategy.rank].length;
  const T = train.batch * S;
  const { dim: D, headDim: E, vocab: V, layers: L } = model;
  const attention = attentionElements(
    model,
    strategy.attentionMemory(attentionShape(model, train.batch), partition, { packed: train.packed }),
    T,
  );

  const { resident, whole } = stateElements(model, train, strategy);
  const block = whole(Object.values(blockShapes(model)));
  const head = whole([[V, D], [D]]);
  const rotaryRows = train.packed ? T : S;
  const stepInputs = attention.held + rotaryRows * E + train.accumulate - 1; // and losses of earlier micro-batches
  const base = resident + stepInputs;

  const each = keptElements(model, T, attention.saved);
  const kept = KEPT_TENSORS[train.recompute].reduce((sum, tensor) => sum + each[tensor], 0); // of one layer
  const x = T * D; // input of a block, or the gradient of its output
  const last = base + (L - 1) * kept + x; // input of the last block
  const lastForward = last + block.weights;
  const lastBackward = last + block.weights + block.gradients + x + 1; // gradient of its output, and the loss
  const lastAttention = recomputesAttention(train.recompute) ? lastBackward : lastForward;
  const headRows = longestChunk(T, headChunkCount(train.headChunks, V, D));

  const elements: Record<MemoryMoment["moment"], number> = {
    "attention forward": lastAttention + T + attention.forward, // rstd
    "head": base + L * kept + head.weights + head.gradients + 2 * x + 2 * T + // x, dx, labels, losses
      headRows * (1 + D + V), // rstd, normed, logits
    "mlp backward": lastBackward + T + attention.saved + x + mlpBackwardElements(model, train, T),
    "attention backward": lastBackward + attention.backward,
    "optimizer": resident + train.accumulate + 2 + PARTIAL_SUMS,
  };
  const peaks = Object.entries(elements)
    .map(([moment, count]) => ({ moment, bytes: count * ELEMENT_BYTES }) as MemoryMoment)
    .sort((a, b) => b.bytes - a.bytes);
  return { residentBytes: resident * ELEMENT_BYTES, peakBytes: peaks[0].bytes, moments: peaks };
}

/**
 * Elements of weights, gradients and AdamW's moments that live between steps, and what is added while a group of weights
 * is whole.
 */
function stateElements(model: ModelConfig, train: TrainConfig, strategy: EstimatedStrategy) {
  const divided = dividedStates(strategy, train.shard);
  const count = (shapes: readonly Shape[], isDivided: boolean) =>
    shapes.reduce((sum, shape) => {
      const { start, end } = ownSegment(elementCount(shape), strategy, isDivided);
      return sum + end - start;
    }, 0);
  const all = parameterSpecs(model).map(({ shape }) => shape);
  return {
    resident: count(all, divided.weights) + count(all, divided.gradients) + 2 * count(all, divided.moments),
    whole: (group: readonly Shape[]) => ({
      weights: divided.weights ? count(group, false) : 0,
      gradients: divided.gradients ? count(group, false) : 0,
    }),
  };
}

/** Elements of an attention layer beyond its input, dy and the norm's rstd in what is held, saved and in forward. */
function attentionElements(model: ModelConfig, memory: AttentionMemory, T: number) {
  const { dim: D, heads: H, kvHeads: K, headDim: E } = model;
  return {
    held: memory.heldBytes / ELEMENT_BYTES,
    saved: memory.savedBytes / ELEMENT_BYTES,
    forward: memory.forwardBytes / ELEMENT_BYTES,
    backward: T + // rstd
      Math.max(
        memory.backwardBytes / ELEMENT_BYTES,
        T * (H + 2 * K) * E + T * D, // dq, dk, dv, and the normed input
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
