/**
 * DeepSpeed-Ulysses as a sequence strategy (Jacobs et al. 2023).
 *
 * @module
 */

import {
  type AttentionMemory,
  type AttentionMemoryOptions,
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
  subgroup,
  type TokenPartition,
  UnsupportedTopologyError,
} from "@mst/core";
import { type HeadColumns, headLayout, ownColumns } from "./head_layout.ts";
import { createNestedAttention, nestedAttentionMemory, nestedPartition } from "./nested_attention.ts";
import { createUlyssesAttention } from "./ulysses_attention.ts";

/** What the strategy is made of. */
export interface UlyssesOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** The ranks; each exchanges directly with every other. */
  readonly group: ProcessGroup;
  /**
   * Attends to the head shards, over ranks of the group that are as far apart as ranks trade heads: rank r of U · R is
   * its rank floor(r / U). By default each rank attends to its heads by itself.
   */
  readonly inner?: SequenceStrategy;
}

/**
 * Splits each sequence into one block a rank, and for attention the heads instead, so that every rank sees the whole
 * sequence and has the same share of it. What a rank sends per layer falls with the number of ranks. Heads must be a
 * multiple of the ranks; kv heads too, or the ranks a multiple of them, in which case several ranks have the same kv head
 * and the gradients of its copies are summed in rank order. Weights are replicated and their gradients summed over ranks.
 *
 * `attention` and `attentionMemory` throw an `UnsupportedTopologyError` for other heads; see `checkHeadSplit`.
 */
export function createUlyssesStrategy({ backend, group, inner }: UlyssesOptions): SequenceStrategy {
  return inner ? createNestedStrategy(backend, group, inner) : createFlatStrategy(backend, group);
}

function createNestedStrategy(backend: Backend, group: ProcessGroup, inner: SequenceStrategy): SequenceStrategy {
  const ranks = group.size / inner.ranks;
  if (!Number.isInteger(ranks)) {
    throw new UnsupportedTopologyError(
      `Cannot split ${group.size} ranks into ${inner.ranks} groups: the ranks must be a multiple of the groups`,
    );
  }
  const clock = new ExchangeClock();
  const { memory } = group;
  const weights = createReplicatedWeights(backend, group, clock);
  const first = inner.rank * ranks;
  const trading = subgroup(group, Array.from({ length: ranks }, (_, i) => first + i));

  return {
    ...weights,
    name: "usp",
    activations: inner.activations,
    partition: (seqTokens) => nestedPartition(inner, seqTokens, ranks),
    attention: (shape, { seqTokens }, documentStarts) =>
      ranks === 1
        ? inner.attention(shape, inner.partition(seqTokens), documentStarts)
        : createNestedAttention({ backend, group: trading, clock, memory, shape, seqTokens, inner, documentStarts }),
    attentionMemory: (shape, { seqTokens }, options) =>
      ranks === 1
        ? inner.attentionMemory(shape, inner.partition(seqTokens), options)
        : nestedAttentionMemory(shape, { seqTokens, inner, rank: trading.rank, ranks }, options),
    takeExchange() {
      const { communicationMs, bytesSent } = weights.takeExchange(); // bytes of all groups
      return { communicationMs: communicationMs + inner.takeExchange().communicationMs, bytesSent };
    },
  };
}

function createFlatStrategy(backend: Backend, group: ProcessGroup): SequenceStrategy {
  const clock = new ExchangeClock();
  const { memory } = group;
  const isAlone = group.size === 1;

  return {
    ...createReplicatedWeights(backend, group, clock),
    name: "ulysses",
    activations: ["f32", "f16"],
    partition: (seqTokens) => contiguousPartition(seqTokens, group.size),
    attention: (shape, partition, documentStarts) =>
      isAlone
        ? createLocalAttention(backend, shape, partition, documentStarts)
        : createUlyssesAttention({ backend, group, clock, memory, shape, partition, documentStarts }),
    attentionMemory: (shape, partition, options) =>
      isAlone
        ? localAttentionMemory(shape, partition, options)
        : ulyssesAttentionMemory(shape, partition, group.rank, options),
  };
}

/** Device bytes of attention over at least two ranks in closed form; see `AttentionMemory`. */
export function ulyssesAttentionMemory(
  shape: AttentionShape,
  { seqTokens, positions }: TokenPartition,
  rank: number,
  { packed = false, activations = "f32" }: AttentionMemoryOptions = {},
): AttentionMemory {
  const { local, qkv, out, perHead } = headLayout(shape, positions.length);
  const allRows = shape.batch * seqTokens;
  const rows = shape.batch * positions[rank].length;
  const largestOtherRows = shape.batch *
    Math.max(...positions.filter((_, r) => r !== rank).map(({ length }) => length));

  const each = elementBytes(activations);
  /** Most elements of an exchange to head shards: all parts beside what is packed, or two beside what they make up. */
  const toHeads = (matrices: readonly HeadColumns[]): number => {
    const own = ownColumns(matrices);
    const packing = rows * (allColumns(matrices) + positions.length * own);
    return Math.max(packing, (allRows + rows + largestOtherRows) * own);
  };
  /** The same back. */
  const toSequence = (matrices: readonly HeadColumns[]): number => {
    const own = ownColumns(matrices);
    return Math.max(2 * allRows * own, rows * (allColumns(matrices) + 2 * own));
  };

  const keptBytes = allRows * local.heads * ELEMENT_BYTES + rows * out.all * each; // log-sum-exp, out
  const kept = allRows * (ownColumns(qkv) * each + local.heads * ELEMENT_BYTES); // q, k, v, log-sum-exp
  const forward = Math.max(toHeads(qkv) * each, kept + toSequence([out]) * each);
  const [localDelta, delta] = [rows * perHead.all, allRows * perHead.own].map((count) => count * ELEMENT_BYTES);
  // One exchange of dOut and delta, or one after the other where they are of different types.
  const exchanged = activations === "f32"
    ? toHeads([out, perHead]) * ELEMENT_BYTES
    : Math.max(localDelta + toHeads([out]) * each, allRows * out.own * each + toHeads([perHead]) * ELEMENT_BYTES);
  const backward = Math.max(
    kept + rows * 2 * out.all * each + localDelta, // out, dOut, delta
    kept + exchanged,
    kept + allRows * ownColumns([out, ...qkv]) * each + delta, // dOut, delta, dq, dk, dv
    toSequence(qkv) * each,
  );
  return {
    heldBytes: positionBytes(seqTokens, shape.batch, packed),
    savedBytes: kept + rows * out.all * each,
    keptBytes,
    forwardBytes: forward,
    rematerializeBytes: keptBytes + toHeads(qkv) * each,
    backwardBytes: backward,
  };
}

function allColumns(matrices: readonly HeadColumns[]): number {
  return matrices.reduce((sum, { all }) => sum + all, 0);
}
