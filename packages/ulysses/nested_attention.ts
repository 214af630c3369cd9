/**
 * Attention over groups of ranks that trade tokens for heads, the head shards being attended to by another strategy
 * (USP, Fang & Zhao 2024).
 *
 * @module
 */

import {
  type AttentionCore,
  type AttentionForwardOptions,
  type AttentionMemory,
  type AttentionMemoryOptions,
  type AttentionShape,
  checkTokenSplit,
  contiguousPartition,
  elementBytes,
  type Saved,
  type SequenceStrategy,
  type Tensor,
  type TokenPartition,
} from "@mst/core";
import { createHeadExchange, type HeadExchangeOptions } from "./head_exchange.ts";
import { type HeadColumns, headLayout, ownColumns } from "./head_layout.ts";

/** What attention is made of; `group` are the ranks that trade. */
export interface NestedAttentionOptions extends Omit<HeadExchangeOptions, "batch" | "partition"> {
  /** Dims of attention over all heads. */
  readonly shape: AttentionShape;
  /** Tokens of a whole sequence. */
  readonly seqTokens: number;
  /** Attends to head shards over the other axis. */
  readonly inner: SequenceStrategy;
  /** `TokenBatch.documentStarts` of all ranks' rows. */
  readonly documentStarts?: Uint32Array;
}

/** Every part of `inner` split into one block for each of `ranks` ranks, neighbours having the same part. */
export function nestedPartition(inner: SequenceStrategy, seqTokens: number, ranks: number): TokenPartition {
  checkTokenSplit(seqTokens, inner.ranks * ranks);
  const positions = inner.partition(seqTokens).positions.flatMap((part) =>
    contiguousPartition(part.length, ranks).positions.map((indices) => indices.map((index) => part[index]))
  );
  return { seqTokens, positions };
}

/**
 * Attention for one micro-batch; what `inner` saves of the own heads is all that it keeps.
 *
 * @throws {UnsupportedTopologyError} when the heads cannot be spread over the ranks
 */
export function createNestedAttention(
  { shape, seqTokens, inner, documentStarts, ...options }: NestedAttentionOptions,
): AttentionCore {
  const { local, qkv, out: outColumns } = headLayout(shape, options.group.size);
  const whole = inner.partition(seqTokens);
  const partition = contiguousPartition(whole.positions[inner.rank].length, options.group.size);
  const exchange = createHeadExchange({ ...options, batch: shape.batch, partition });
  const core = inner.attention(local, whole, documentStarts);

  return {
    async forward(
      localQ: Tensor,
      localK: Tensor,
      localV: Tensor,
      options?: AttentionForwardOptions,
    ): Promise<{ out: Tensor; saved: Saved }> {
      const [q, k, v] = await exchange.toHeads([localQ, localK, localV], qkv);
      const { out: ownOut, saved } = await core.forward(q, k, v, options);
      const [out] = await exchange.toSequence([ownOut], [outColumns]);
      return { out, saved };
    },

    async backward(localDOut: Tensor, saved: Saved): Promise<{ dq: Tensor; dk: Tensor; dv: Tensor }> {
      const [dOut] = await exchange.toHeads([localDOut], [outColumns]);
      const own = await core.backward(dOut, saved);
      const [dq, dk, dv] = await exchange.toSequence([own.dq, own.dk, own.dv], qkv);
      return { dq, dk, dv };
    },

    keep: (saved) => core.keep(saved),

    async rematerialize(localQ: Tensor, localK: Tensor, localV: Tensor, kept: Saved): Promise<Saved> {
      const [q, k, v] = await exchange.toHeads([localQ, localK, localV], qkv);
      return await core.rematerialize(q, k, v, kept);
    },

    [Symbol.dispose](): void {
      core[Symbol.dispose]();
    },
  };
}

/** Device bytes of {@linkcode createNestedAttention} in closed form; see `AttentionMemory`. */
export function nestedAttentionMemory(
  shape: AttentionShape,
  { seqTokens, inner, rank, ranks }: { seqTokens: number; inner: SequenceStrategy; rank: number; ranks: number },
  options?: AttentionMemoryOptions,
): AttentionMemory {
  const { local, qkv, out } = headLayout(shape, ranks);
  const each = elementBytes(options?.activations ?? "f32");
  const whole = inner.partition(seqTokens);
  const groupTokens = whole.positions[inner.rank].length;
  const lengths = contiguousPartition(groupTokens, ranks).positions.map(({ length }) => shape.batch * length);
  const allRows = shape.batch * groupTokens;
  const rows = lengths[rank];
  const largestOtherRows = Math.max(...lengths.filter((_, r) => r !== rank));

  /** Most bytes of an exchange to head shards: all parts beside what is packed, or two beside what they make up. */
  const toHeads = (matrices: readonly HeadColumns[]): number => {
    const own = ownColumns(matrices);
    const packing = rows * (allColumns(matrices) + ranks * own);
    return Math.max(packing, (allRows + rows + largestOtherRows) * own) * each;
  };
  /** The same back. */
  const toSequence = (matrices: readonly HeadColumns[]): number => {
    const own = ownColumns(matrices);
    return Math.max(2 * allRows * own, rows * (allColumns(matrices) + 2 * own)) * each;
  };

  const memory = inner.attentionMemory(local, whole, options);
  // The output goes back while inner keeps it, so that packing adds the parts alone.
  const returned = Math.max(allRows * out.own, rows * (out.all + 2 * out.own)) * each;
  const outBytes = rows * out.all * each; // the output of the own tokens, beside that of inner
  const keptBytes = memory.keptBytes + outBytes;
  return {
    heldBytes: memory.heldBytes,
    savedBytes: memory.savedBytes + outBytes,
    keptBytes,
    rematerializeBytes: Math.max(keptBytes + toHeads(qkv), outBytes + memory.rematerializeBytes),
    forwardBytes: Math.max(toHeads(qkv), memory.forwardBytes, memory.savedBytes + returned),
    backwardBytes: Math.max(
      memory.savedBytes + toHeads([out]),
      memory.backwardBytes,
      toSequence(qkv),
    ),
  };
}

function allColumns(matrices: readonly HeadColumns[]): number {
  return matrices.reduce((sum, { all }) => sum + all, 0);
}
