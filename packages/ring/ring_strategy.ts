/**
 * Ring Attention as a sequence strategy (Liu, Zaharia & Abbeel 2023).
 *
 * @module
 */

import {
  attentionBytes,
  type AttentionMemory,
  type AttentionMemoryOptions,
  attentionOutputBytes,
  type AttentionShape,
  type Backend,
  contiguousPartition,
  createLocalAttention,
  createReplicatedWeights,
  ELEMENT_BYTES,
  elementBytes,
  ExchangeClock,
  localAttentionMemory,
  positionBytes,
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
  const clock = new ExchangeClock();
  const { memory } = group;
  const split = placement === "zigzag" ? zigZagPartition : contiguousPartition;

  return {
    ...createReplicatedWeights(backend, group, clock),
    name: "ring",
    activations: ["f32", "f16"],
    partition: (seqTokens) => split(seqTokens, group.size),
    attention: (shape, partition, documentStarts) =>
      group.size === 1
        ? createLocalAttention(backend, shape, partition, documentStarts)
        : createRingAttention({ backend, group, clock, memory, shape, partition, documentStarts }),
    attentionMemory: (shape, partition, options) =>
      group.size === 1
        ? localAttentionMemory(shape, partition, options)
        : ringAttentionMemory(shape, partition, group.rank, options),
  };
}

/** Device bytes of {@linkcode createRingAttention} in closed form; see `AttentionMemory`. */
export function ringAttentionMemory(
  shape: AttentionShape,
  { positions }: TokenPartition,
  rank: number,
  { packed = false, activations = "f32", backwardIsNext = false }: AttentionMemoryOptions = {},
): AttentionMemory {
  const { batch, heads, kvHeads, headDim } = shape;
  const ranks = positions.length;
  const rows = batch * positions[rank].length;
  const savedBytes = attentionBytes(shape, rows, activations);
  const each = elementBytes(activations);
  const rounds = positions.map((_, round) => {
    const tokens = positions[(rank - round + ranks) % ranks].length;
    const pairBytes = 2 * batch * tokens * kvHeads * headDim * each; // k and v, or dk and dv
    return { pairBytes, blockBytes: pairBytes + tokens * ELEMENT_BYTES }; // k, v and the positions of keys
  });
  const [own, ...foreign] = rounds;
  const largestBlockBytes = Math.max(...foreign.map(({ blockBytes }) => blockBytes));
  // dk and dv of a round beside its block while it is computed, and beside the next block until they are read
  const pairs = foreign.map(({ pairBytes, blockBytes }, i) =>
    pairBytes + Math.max(blockBytes, foreign[i + 1]?.blockBytes ?? 0)
  );
  const queryBytes = rows * (heads * headDim * each + heads * ELEMENT_BYTES); // dOut and delta; dq takes the place of out
  return {
    heldBytes: positionBytes(positions[rank].length, batch, packed),
    savedBytes,
    keptBytes: attentionOutputBytes(shape, rows, activations),
    rematerializeBytes: savedBytes,
    forwardBytes: savedBytes + largestBlockBytes,
    // The own dk and dv come last where blocks were received before.
    backwardBytes: savedBytes + queryBytes +
      (backwardIsNext ? Math.max(own.pairBytes, ...pairs) : own.pairBytes + Math.max(...pairs)),
  };
}
