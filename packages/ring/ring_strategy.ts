/**
 * Ring Attention as a sequence strategy (Liu, Zaharia & Abbeel 2023).
 *
 * @module
 */

import {
  allReduceGradients,
  type AttentionMemory,
  type AttentionShape,
  type Backend,
  contiguousPartition,
  createLocalAttention,
  ELEMENT_BYTES,
  localAttentionMemory,
  OverlapClock,
  type ProcessGroup,
  type SequenceStrategy,
  type TokenPartition,
  zigZagPartition,
} from "@mst/core";
import { createRingAttention } from "./ring_attention.ts";

/** What a ring is made of. */
export interface RingOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** The ranks; k and v travel from each to the next. */
  readonly group: ProcessGroup;
  /** `zigzag` (default) gives every rank the same share of causal attention; `contiguous` gives early ranks less. */
  readonly placement?: "zigzag" | "contiguous";
}

/**
 * Splits each sequence over the ranks and passes blocks of k and v around the ring, so that every query meets every key
 * while no rank ever holds more than one foreign block. Any number of ranks, heads and tokens (at least one a rank).
 * Weights are replicated and their gradients summed over the ranks.
 */
export function createRingStrategy({ backend, group, placement = "zigzag" }: RingOptions): SequenceStrategy {
  const clock = new OverlapClock();
  let bytesSentBefore = group.stats.bytesSent;
  const split = placement === "zigzag" ? zigZagPartition : contiguousPartition;

  return {
    name: "ring",
    rank: group.rank,
    ranks: group.size,
    partition: (seqTokens) => split(seqTokens, group.size),
    attention: (shape, partition) =>
      group.size === 1
        ? createLocalAttention(backend, shape, partition)
        : createRingAttention({ backend, group, clock, shape, partition }),
    attentionMemory: (shape, partition) =>
      group.size === 1 ? localAttentionMemory(shape, partition) : ringAttentionMemory(shape, partition, group.rank),
    reduceGradients: (gradients) => clock.exchange(() => allReduceGradients(backend, group, gradients)),

    async sumOverRanks(values: readonly number[]): Promise<number[]> {
      const parts = await group.allGather(new Uint8Array(Float64Array.from(values).buffer));
      const sums = values.map(() => 0);
      for (const part of parts) {
        new Float64Array(part.slice().buffer).forEach((value, i) => sums[i] += value);
      }
      return sums;
    },

    beginStep(step: number): void {
      group.step = step;
    },

    takeExchange() {
      const bytesSent = group.stats.bytesSent - bytesSentBefore;
      bytesSentBefore = group.stats.bytesSent;
      return { ...clock.take(), bytesSent };
    },
  };
}

/** Device bytes of {@linkcode createRingAttention} in closed form; see `AttentionMemory`. */
export function ringAttentionMemory(
  { batch, heads, kvHeads, headDim }: AttentionShape,
  { positions }: TokenPartition,
  rank: number,
): AttentionMemory {
  const keyBytes = (tokens: number) => batch * tokens * kvHeads * headDim * ELEMENT_BYTES;
  const local = positions[rank].length;
  const foreign = Math.max(...positions.filter((_, r) => r !== rank).map((block) => block.length));
  const positionBytes = foreign * ELEMENT_BYTES;
  return {
    forwardBytes: 2 * keyBytes(foreign) + positionBytes,
    backwardBytes: batch * local * (heads * headDim + heads) * ELEMENT_BYTES +
      Math.max(2 * keyBytes(local), 4 * keyBytes(foreign) + positionBytes),
  };
}
