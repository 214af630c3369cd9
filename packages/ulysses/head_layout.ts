/**
 * Which heads each rank computes while the sequence is whole, as `checkHeadSplit` has them, and the columns that these are.
 *
 * @module
 */

import { type AttentionShape, checkHeadSplit, headShare, headsOfRank } from "@mst/core";

/** How the columns of a matrix are spread over ranks, whole heads at a time. */
export interface HeadColumns {
  /** Columns of all heads. */
  readonly all: number;
  /** Columns of each rank's heads. */
  readonly own: number;
  /** Ranks that have the same columns; they are neighbours. */
  readonly copies: number;
}

/** The matrices of attention, and its dims on one rank. */
export interface HeadLayout {
  /** Dims of attention over the own heads. */
  readonly local: AttentionShape;
  /** Columns of q, k and v. */
  readonly qkv: readonly HeadColumns[];
  /** Columns of the output. */
  readonly out: HeadColumns;
  /** Columns of log-sum-exp and delta: a number a head. */
  readonly perHead: HeadColumns;
}

/**
 * Spreads the heads over ranks.
 *
 * @throws {UnsupportedTopologyError} as `checkHeadSplit`
 */
export function headLayout(shape: AttentionShape, ranks: number): HeadLayout {
  checkHeadSplit(shape, ranks);
  const { heads, kvHeads, headDim } = shape;
  const query = columnsOf(heads, headDim, ranks);
  const keyValue = columnsOf(kvHeads, headDim, ranks);
  return {
    local: { ...shape, ...headsOfRank(shape, ranks) },
    qkv: [query, keyValue, keyValue],
    out: query,
    perHead: columnsOf(heads, 1, ranks),
  };
}

function columnsOf(heads: number, perHead: number, ranks: number): HeadColumns {
  const { own, copies } = headShare(heads, ranks);
  return { all: heads * perHead, own: own * perHead, copies };
}

/** First column of a rank's heads. */
export function firstColumn({ own, copies }: HeadColumns, rank: number): number {
  return Math.floor(rank / copies) * own;
}

/** Whether a rank is the first of those that have the same columns. */
export function isFirstCopy({ copies }: HeadColumns, rank: number): boolean {
  return rank % copies === 0;
}

/** Columns of one rank's heads, of several matrices together. */
export function ownColumns(matrices: readonly HeadColumns[]): number {
  return matrices.reduce((sum, { own }) => sum + own, 0);
}
