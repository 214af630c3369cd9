/**
 * Ways to split the positions of a sequence over ranks.
 *
 * @module
 */

import { segmentBounds } from "../transport/collectives.ts";
import type { TokenPartition } from "./strategy.ts";
import { UnsupportedTopologyError } from "./unsupported.ts";

/** One contiguous block a rank; lengths differ by one at most. Early ranks have less causal attention to compute. */
export function contiguousPartition(seqTokens: number, ranks: number): TokenPartition {
  checkTokenSplit(seqTokens, ranks);
  return { seqTokens, positions: Array.from({ length: ranks }, (_, rank) => block(seqTokens, ranks, rank)) };
}

/**
 * Two of 2R blocks a rank: rank r owns blocks r and 2R − 1 − r, so that every rank computes the same share of causal
 * attention (zig-zag, as in Brandon et al. 2023 and torch's context parallelism).
 */
export function zigZagPartition(seqTokens: number, ranks: number): TokenPartition {
  checkTokenSplit(seqTokens, ranks);
  const blocks = 2 * ranks;
  const positions = Array.from(
    { length: ranks },
    (_, rank) => Uint32Array.from([...block(seqTokens, blocks, rank), ...block(seqTokens, blocks, blocks - 1 - rank)]),
  );
  return { seqTokens, positions };
}

/**
 * Refuses a sequence that cannot be split over ranks.
 *
 * @throws {UnsupportedTopologyError} when there are fewer tokens than ranks
 */
export function checkTokenSplit(seqTokens: number, ranks: number): void {
  if (!Number.isSafeInteger(seqTokens) || seqTokens < ranks) {
    throw new UnsupportedTopologyError(
      `Cannot split ${seqTokens} tokens across ${ranks} ranks: every rank needs at least one token`,
    );
  }
}

/** Positions of one of `blocks` blocks of a sequence. */
function block(seqTokens: number, blocks: number, index: number): Uint32Array {
  const { start, end } = segmentBounds(seqTokens, blocks, index);
  return Uint32Array.from({ length: end - start }, (_, i) => start + i);
}
