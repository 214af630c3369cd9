/**
 * What wraps the projections of a layer, so that ranks can share their work.
 *
 * @module
 */

import type { Tensor } from "../tensor/tensor.ts";

/** Rows of all ranks of a region. */
export interface GatheredRows {
  /** Rows of the ranks, in their order [N, D]; owned by the caller. */
  readonly all: Tensor;
  /** Rows of each rank; their sum is N. */
  readonly counts: readonly number[];
}

/** Rows of a micro-batch that are gathered at once around attention. */
export interface RowSlice {
  /** First of this rank's rows. */
  readonly start: number;
  /** Last of this rank's rows plus one. */
  readonly end: number;
  /** Row of attention that the first gathered row is; the others follow it. */
  readonly at: number;
  /** Rows of each rank. */
  readonly counts: readonly number[];
}

/**
 * Ranks that hold different parts of a layer's weights and different rows of its input. Around projections the rows of
 * all are gathered, and each gets back its rows of the sum of what all computed (Korthikanti et al. 2022, section 4.2.2);
 * each is the backward of the other. All ranks make the same calls in the same order.
 */
export interface Region {
  /**
   * How the rows of a micro-batch are cut around attention, which works on those of all ranks: batch-major, positions
   * ascending.
   *
   * @param rows rows of this rank
   */
  slices(rows: number): readonly RowSlice[];
  /** The rows of all ranks; x [C, D] is this rank's. */
  gather(x: Tensor): Promise<GatheredRows>;
  /**
   * out [C, D] becomes this rank's rows of the sum over ranks of what `produce` makes of all rows; with `accumulate` they
   * are added to what is there.
   *
   * @param counts rows of each rank, from {@linkcode Region.gather}
   * @param produce writes this rank's term to its target [N, D], or adds it when told so
   */
  scatterSum(
    out: Tensor,
    counts: readonly number[],
    produce: (target: Tensor, accumulate: boolean) => void,
    options?: { readonly accumulate?: boolean },
  ): Promise<void>;
}

/** The region of a rank that holds all weights: nothing is gathered, and sums are written where they belong. */
export const WHOLE_REGION: Region = {
  slices: (rows) => [{ start: 0, end: rows, at: 0, counts: [rows] }],
  gather: (x) => Promise.resolve({ all: x.share(), counts: [x.shape[0]] }),
  scatterSum(out, _counts, produce, { accumulate = false } = {}) {
    produce(out, accumulate);
    return Promise.resolve();
  },
};

/** Gathered rows of a slice. */
export function rowsOfSlice({ counts }: RowSlice): number {
  return counts.reduce((sum, count) => sum + count, 0);
}
