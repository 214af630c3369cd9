/**
 * Which tokens a rank owns: of every window of a sequence an equal part.
 *
 * A sequence is cut into windows, and each window into one contiguous block a rank. The rows of all ranks in a window are
 * then neighbours in the sequence, so that they can be gathered window by window to where attention wants them, and no
 * more than a window is ever gathered.
 *
 * @module
 */

import { checkTokenSplit, type RowSlice, segmentBounds, type SplitBatch, type TokenPartition } from "@mst/core";

/** A window of a sequence, and where each rank's block in it starts and ends. */
interface Window {
  /** First position. */
  readonly start: number;
  /** First position of each rank's block, and the end of the window. */
  readonly bounds: readonly number[];
}

/**
 * Windows of at most `windowTokens` tokens each, no more than a rank owns, and in the last up to R − 1 more. Blocks of all
 * windows but the last are equally long for all ranks, so that the tokens of ranks differ by one at most.
 */
function windowsOf(seqTokens: number, ranks: number, windowTokens: number): Window[] {
  const blocks = Math.floor(seqTokens / ranks); // tokens of a rank, but for what does not divide
  const longest = Math.min(windowTokens, Math.ceil(seqTokens / ranks));
  const count = Math.ceil(blocks / Math.max(1, Math.floor(longest / ranks)));
  return Array.from({ length: count }, (_, index) => {
    const { start, end } = segmentBounds(blocks, count, index);
    const first = start * ranks;
    const tokens = (index === count - 1 ? seqTokens : end * ranks) - first;
    const bounds = Array.from({ length: ranks }, (_, rank) => first + segmentBounds(tokens, ranks, rank).start);
    return { start: first, bounds: [...bounds, first + tokens] };
  });
}

/**
 * The positions of every rank.
 *
 * @param windowTokens most tokens of a window over all ranks
 * @throws {UnsupportedTopologyError} when there are fewer tokens than ranks
 */
export function windowedPartition(seqTokens: number, ranks: number, windowTokens: number): TokenPartition {
  checkTokenSplit(seqTokens, ranks);
  const windows = windowsOf(seqTokens, ranks, windowTokens);
  const positions = Array.from(
    { length: ranks },
    (_, rank) =>
      Uint32Array.from(
        windows.flatMap(({ bounds }) =>
          Array.from({ length: bounds[rank + 1] - bounds[rank] }, (_, i) => bounds[rank] + i)
        ),
      ),
  );
  return { seqTokens, positions };
}

/** The windows of every sequence of a micro-batch as slices of a rank's rows. */
export function windowSlices({ batch, positions }: SplitBatch, rank: number, windowTokens: number): RowSlice[] {
  const seqTokens = positions.reduce((sum, { length }) => sum + length, 0);
  const windows = windowsOf(seqTokens, positions.length, windowTokens);
  let start = 0;
  return Array.from({ length: batch }, (_, b) => b).flatMap((b) =>
    windows.map((window) => {
      const counts = positions.map((_, r) => window.bounds[r + 1] - window.bounds[r]);
      const slice = { start, end: start + counts[rank], at: b * seqTokens + window.start, counts };
      start = slice.end;
      return slice;
    })
  );
}
