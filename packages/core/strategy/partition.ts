/**
 * Ways to split the positions of a sequence over ranks.
 *
 * @module
 */

import type { TokenPartition } from "./strategy.ts";
import { UnsupportedTopologyError } from "./unsupported.ts";

/** One contiguous block a rank; lengths differ by one at most. Early ranks have less causal attention to compute. */
export function contiguousPartition(seqTokens: number, ranks: number): TokenPartition {
  assertSplittable(seqTokens, ranks);
  const bounds = blockBounds(seqTokens, ranks);
  return { seqTokens, positions: Array.from({ length: ranks }, (_, rank) => range(bounds[rank], bounds[rank + 1])) };
}

/**
 * Two of 2R blocks a rank: rank r owns blocks r and 2R − 1 − r, so that every rank computes the same share of causal
 * attention (zig-zag, as in Brandon et al. 2023 and torch's context parallelism).
 */
export function zigZagPartition(seqTokens: number, ranks: number): TokenPartition {
  assertSplittable(seqTokens, ranks);
  const bounds = blockBounds(seqTokens, 2 * ranks);
  const positions = Array.from({ length: ranks }, (_, rank) => {
    const mirror = 2 * ranks - 1 - rank;
    return Uint32Array.from([
      ...range(bounds[rank], bounds[rank + 1]),
      ...range(bounds[mirror], bounds[mirror + 1]),
    ]);
  });
  return { seqTokens, positions };
}

function assertSplittable(seqTokens: number, ranks: number): void {
  if (!Number.isSafeInteger(seqTokens) || seqTokens < ranks) {
    throw new UnsupportedTopologyError(
      `Cannot split ${seqTokens} tokens across ${ranks} ranks: every rank needs at least one token`,
    );
  }
}

/** First position of each of `blocks` blocks, and the end; longer blocks come first. */
function blockBounds(seqTokens: number, blocks: number): number[] {
  const whole = Math.floor(seqTokens / blocks);
  const longer = seqTokens % blocks;
  return Array.from({ length: blocks + 1 }, (_, i) => i * whole + Math.min(i, longer));
}

function range(start: number, end: number): Uint32Array {
  return Uint32Array.from({ length: end - start }, (_, i) => start + i);
}
