/**
 * Final norm, LM head and cross-entropy with a head of which every rank holds the rows of its part of the vocabulary,
 * mini-sequence by mini-sequence: logits are never gathered (Shoeybi et al. 2019, section 3). Legend: C own rows of a
 * mini-sequence, N rows of all ranks in it, D model width, V_r this rank's part of the vocabulary.
 *
 * @module
 */

import {
  type Backend,
  IGNORED_LABEL,
  type LmHeadLossOptions,
  type LmHeadWeights,
  localRows,
  planChunks,
  Scope,
  type SplitBatch,
  type SplitComputation,
  type Tensor,
  tensorFrom,
  zeros,
} from "@mst/core";
import type { RowExchange } from "./row_exchange.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** What the head is made of. */
export interface VocabularyHeadOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** This process's number. */
  readonly rank: number;
  /** Carries rows. */
  readonly rows: RowExchange;
  /** Who holds which rows of the head. */
  readonly vocabulary: Vocabulary;
  /** The micro-batch. */
  readonly split: SplitBatch;
}

/** The head of one micro-batch. */
export type VocabularyHead = Pick<SplitComputation, "headLoss" | "headLogits">;

/** A mini-sequence: rows of every rank. */
type Slice = readonly { readonly start: number; readonly end: number }[];

/** The head of one micro-batch. */
export function createVocabularyHead(
  { backend, rank, rows, vocabulary, split: { batch, positions } }: VocabularyHeadOptions,
): VocabularyHead {
  const { ops } = backend;

  /** The mini-sequences; every rank has as many. */
  function slicesOf(chunks: number): Slice[] {
    const plans = positions.map(({ length }) => planChunks(batch * length, chunks));
    return plans[rank].map((_, i) => plans.map((plan) => plan[i]));
  }

  /** Normed rows of all ranks, and what the norm's backward needs; owned by the scope. */
  async function gatherNormed(xSlice: Tensor, { norm, normEpsilon }: LmHeadWeights, scope: Scope) {
    const rstd = scope.own(backend.empty([xSlice.shape[0]], "scratch"));
    const normed = scope.own(backend.empty(xSlice.shape, "scratch"));
    ops.rmsNorm(xSlice, norm.value, normed, rstd, normEpsilon);
    const { all, counts } = await rows.gather(normed);
    return { rstd, normed, all: scope.own(all), counts };
  }

  /** Log-sum-exp of rows over the whole vocabulary, and their logits at the label. */
  async function softmaxSums(
    logits: Tensor,
    labels: Tensor,
  ): Promise<{ logSumExp: Float32Array; target: Float32Array }> {
    const own = await readSums();
    const parts = await rows.exchange(positions.map(() => own));
    const count = labels.size;
    const logSumExp = new Float32Array(count);
    const target = new Float32Array(count);
    for (let row = 0; row < count; row++) {
      const terms = parts.map((part) => part[2 * row]);
      const highest = Math.max(...terms);
      logSumExp[row] = highest + Math.log(terms.reduce((sum, term) => sum + Math.exp(term - highest), 0));
      target[row] = parts.reduce((sum, part) => sum + part[2 * row + 1], 0); // 0 on all ranks but one
    }
    return { logSumExp, target };

    async function readSums(): Promise<Float32Array> {
      using sums = backend.empty([labels.size, 2], "scratch");
      ops.logSumExp(logits, labels, sums);
      return await backend.read(sums);
    }
  }

  return {
    async headLoss(
      x: Tensor,
      labels: Uint32Array,
      weights: LmHeadWeights,
      { chunks, scale }: LmHeadLossOptions,
    ): Promise<{ total: Tensor; dx: Tensor }> {
      using results = new Scope();
      const dx = results.own(zeros(backend, x.shape, "activations"));
      const labelsByRank = positions.map((each) => localRows(labels, batch, each));
      const { norm, head } = weights;
      let total = 0;
      for (const slice of slicesOf(chunks)) {
        using scope = new Scope();
        const { start, end } = slice[rank];
        const [xSlice, dxSlice] = [x, dx].map((tensor) => scope.own(tensor.rows(start, end)));
        const { rstd, normed, all, counts } = await gatherNormed(xSlice, weights, scope);
        const logits = scope.own(backend.empty([all.shape[0], head.value.shape[0]], "scratch"));
        ops.matmul(all, head.value, logits, { transposeB: true });

        const sliceLabels = concatenate(slice.map((range, r) => labelsByRank[r].subarray(range.start, range.end)));
        const within = vocabulary.labelsWithin(rank, sliceLabels);
        const targets = scope.own(tensorFrom(backend, within, [within.length], "scratch"));
        const { logSumExp, target } = await softmaxSums(logits, targets);
        const first = counts.slice(0, rank).reduce((sum, count) => sum + count, 0);
        for (let row = first; row < first + counts[rank]; row++) {
          if (sliceLabels[row] !== IGNORED_LABEL) total += logSumExp[row] - target[row];
        }
        {
          using sums = tensorFrom(backend, logSumExp, [logSumExp.length], "scratch");
          ops.crossEntropyGradient(logits, targets, sums, scale);
        }

        if (head.gradient) ops.matmul(logits, all, head.gradient, { transposeA: true, accumulate: true });
        scope.free(all);
        const dNormed = normed; // its values are not needed any more
        await rows.scatterSum(dNormed, counts, (term) => ops.matmul(logits, head.value, term));
        ops.rmsNormBackward(xSlice, norm.value, rstd, dNormed, dxSlice, norm.gradient);
      }
      return {
        total: tensorFrom(backend, Float32Array.of(total), [1], "activations"),
        dx: results.release(dx),
      };
    },

    async headLogits(x: Tensor, weights: LmHeadWeights, chunks: number): Promise<Float32Array> {
      const all = new Float32Array(x.shape[0] * vocabulary.size);
      for (const slice of slicesOf(chunks)) {
        const { start, end } = slice[rank];
        const parts = await readLogits(start, end, weights);
        for (const [owner, part] of (await rows.exchange(parts)).entries()) {
          const { start: first, end: last } = vocabulary.part(owner);
          for (let row = start; row < end; row++) {
            const columns = part.subarray((row - start) * (last - first), (row - start + 1) * (last - first));
            all.set(columns, row * vocabulary.size + first);
          }
        }
      }
      return all;

      /** This rank's columns of the logits of each rank's rows. */
      async function readLogits(start: number, end: number, weights: LmHeadWeights): Promise<Float32Array[]> {
        using scope = new Scope();
        const gathered = await gatherNormed(scope.own(x.rows(start, end)), weights, scope);
        const columns = weights.head.value.shape[0];
        const logits = scope.own(backend.empty([gathered.all.shape[0], columns], "scratch"));
        ops.matmul(gathered.all, weights.head.value, logits, { transposeB: true });
        const values = await backend.read(logits);
        let at = 0;
        return gathered.counts.map((count) => values.subarray(at, at += count * columns));
      }
    },
  };
}

function concatenate(arrays: readonly Uint32Array[]): Uint32Array {
  const all = new Uint32Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}
