/**
 * Tokens by the part of the vocabulary that they are in. Legend: R ranks, V vocabulary.
 *
 * @module
 */

import { IGNORED_LABEL, OTHER_PART_LABEL, segmentBounds } from "@mst/core";

/** A vocabulary of which every rank holds a part. */
export class Vocabulary {
  readonly #ends: readonly number[];

  /**
   * @param size tokens of the whole vocabulary, as many as ranks or more
   * @param ranks number of ranks
   */
  constructor(readonly size: number, ranks: number) {
    this.#ends = Array.from({ length: ranks }, (_, rank) => segmentBounds(size, ranks, rank).end);
  }

  /** Ids of a rank's part: `start` to `end`, exclusive. */
  part(rank: number): { readonly start: number; readonly end: number } {
    return { start: rank === 0 ? 0 : this.#ends[rank - 1], end: this.#ends[rank] };
  }

  /** The rank whose part an id is in. */
  owner(id: number): number {
    let [low, high] = [0, this.#ends.length - 1];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (id < this.#ends[middle]) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Labels as numbers within a rank's part; ignored ones stay so, those of other parts are `OTHER_PART_LABEL`. */
  labelsWithin(rank: number, labels: Uint32Array): Uint32Array {
    const { start, end } = this.part(rank);
    return labels.map((label) =>
      label === IGNORED_LABEL ? label : label >= start && label < end ? label - start : OTHER_PART_LABEL
    );
  }
}
