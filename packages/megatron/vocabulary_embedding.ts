/**
 * Token embedding with a table of which every rank holds the rows of its part of the vocabulary.
 *
 * All ranks know the tokens of all, so a row of the table travels straight from the rank that holds it to the one whose
 * token it is, and its gradient back. Megatron-LM sums rows that are zero on all ranks but one instead (Shoeybi et al.
 * 2019, section 3), which gives the same numbers from R times the bytes. Legend: D model width, T own rows.
 *
 * @module
 */

import {
  addEmbeddingGradient,
  type Backend,
  type RowSlice,
  Scope,
  type SplitComputation,
  type Tensor,
  tensorFrom,
} from "@mst/core";
import type { RowExchange } from "./row_exchange.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** What the embedding is made of. */
export interface VocabularyEmbeddingOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** This process's number. */
  readonly rank: number;
  /** Carries rows. */
  readonly rows: RowExchange;
  /** Who holds which rows of the table. */
  readonly vocabulary: Vocabulary;
  /** Windows of the micro-batch, each exchanged at once. */
  readonly slices: readonly RowSlice[];
}

/** Embedding of the tokens of one micro-batch. */
export type VocabularyEmbedding = Pick<SplitComputation, "embed" | "embedBackward">;

/** A token of a window: whose it is, and who holds its row of the table. */
interface WindowToken {
  readonly id: number;
  /** The rank whose token it is. */
  readonly reader: number;
  /** The rank that holds its row. */
  readonly holder: number;
}

/** The embedding of one micro-batch. */
export function createVocabularyEmbedding(
  { backend, rank, rows, vocabulary, slices }: VocabularyEmbeddingOptions,
): VocabularyEmbedding {
  /** The tokens of a window, in the order of the sequence, which is that of their readers. */
  function tokensOf(ids: Uint32Array, { at, counts }: RowSlice): WindowToken[] {
    let next = at;
    return counts.flatMap((count, reader) =>
      Array.from({ length: count }, () => {
        const id = ids[next++];
        return { id, reader, holder: vocabulary.owner(id) };
      })
    );
  }

  /** Numbers, within this rank's part, of the ids that it holds among some tokens. */
  function heldIds(tokens: readonly WindowToken[]): Uint32Array {
    const { start } = vocabulary.part(rank);
    return Uint32Array.from(tokens.filter(({ holder }) => holder === rank), ({ id }) => id - start);
  }

  /** Rows of the table at numbers within this rank's part, on the host. */
  async function lookUp(held: Uint32Array, table: Tensor): Promise<Float32Array> {
    if (held.length === 0) return new Float32Array(0);
    using numbers = tensorFrom(backend, held, [held.length], "activations");
    using found = backend.empty([held.length, table.shape[1]], "communication");
    backend.ops.embedding(numbers, table, found);
    return await backend.read(found);
  }

  return {
    async embed(ids: Uint32Array, table: Tensor): Promise<Tensor> {
      const dim = table.shape[1];
      using scope = new Scope();
      const x = scope.own(backend.empty([slices.at(-1)!.end, dim], "activations"));
      for (const slice of slices) {
        const tokens = tokensOf(ids, slice);
        const found = await lookUp(heldIds(tokens), table);
        const held = tokens.filter(({ holder }) => holder === rank);
        const received = await rows.exchange(
          splitRows(found, dim, held.map(({ reader }) => reader), slice.counts.length),
        );
        const own = tokens.filter(({ reader }) => reader === rank);
        using target = x.rows(slice.start, slice.end);
        backend.write(target, mergeRows(received, dim, own.map(({ holder }) => holder)));
      }
      return scope.release(x);
    },

    async embedBackward(ids: Uint32Array, dx: Tensor, dTable: Tensor): Promise<void> {
      const dim = dx.shape[1];
      for (const slice of slices) {
        const tokens = tokensOf(ids, slice);
        using dxRows = dx.rows(slice.start, slice.end);
        const own = tokens.filter(({ reader }) => reader === rank);
        const parts = splitRows(await backend.read(dxRows), dim, own.map(({ holder }) => holder), slice.counts.length);
        const received = await rows.exchange(parts);
        const held = tokens.filter(({ holder }) => holder === rank);
        if (held.length === 0) continue;
        const gradients = mergeRows(received, dim, held.map(({ reader }) => reader));
        using dRows = tensorFrom(backend, gradients, [held.length, dim], "communication");
        addEmbeddingGradient(backend, heldIds(tokens), dRows, dTable);
      }
    },
  };
}

/** Deals rows out to ranks; row i goes to `ranks[i]`. */
function splitRows(values: Float32Array, dim: number, ranks: readonly number[], size: number): Float32Array[] {
  const counts = new Array<number>(size).fill(0);
  for (const rank of ranks) counts[rank]++;
  const parts = counts.map((count) => new Float32Array(count * dim));
  const next = new Array<number>(size).fill(0);
  ranks.forEach((rank, row) => parts[rank].set(values.subarray(row * dim, (row + 1) * dim), next[rank]++ * dim));
  return parts;
}

/** Puts rows of ranks back in order; row i comes from `ranks[i]`. */
function mergeRows(parts: readonly Float32Array[], dim: number, ranks: readonly number[]): Float32Array {
  const values = new Float32Array(ranks.length * dim);
  const next = new Array<number>(parts.length).fill(0);
  ranks.forEach((rank, row) => {
    const from = next[rank]++ * dim;
    values.set(parts[rank].subarray(from, from + dim), row * dim);
  });
  return values;
}
