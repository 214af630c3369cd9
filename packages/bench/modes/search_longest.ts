/**
 * Searching for the longest sequence that fits.
 *
 * @module
 */

import type { LengthSearch } from "../config/run_config.ts";

/** The end of a search. */
export interface FoundLength {
  /** Longest length that fitted. */
  readonly seqTokens: number;
  /** Shortest length above it that did not; absent where the longest of all fitted. */
  readonly exceededTokens?: number;
}

/**
 * Tries lengths, first in steps that double away from the start until one fits and one does not, then halfway between
 * these, until they are a unit apart. Resolves to undefined when not even the shortest fits. Memory is taken to grow with
 * the length, which holds beyond the rounding of mini-sequences, less than a unit.
 *
 * @param fits whether a length fits, found by trying it
 */
export async function searchLongest(
  { startTokens, unitTokens, minTokens, maxTokens }: LengthSearch,
  fits: (seqTokens: number) => Promise<boolean>,
): Promise<FoundLength | undefined> {
  let fitted: number | undefined;
  let exceeded: number | undefined;
  let step = unitTokens;
  let next: number | undefined = startTokens;
  while (next !== undefined) {
    if (await fits(next)) fitted = next;
    else exceeded = next;
    next = following();
  }
  return fitted === undefined ? undefined : { seqTokens: fitted, exceededTokens: exceeded };

  function following(): number | undefined {
    if (fitted !== undefined && exceeded !== undefined) {
      const units = Math.ceil((exceeded - fitted) / unitTokens);
      return units > 1 ? fitted + Math.floor(units / 2) * unitTokens : undefined;
    }
    const from = fitted ?? exceeded!;
    if (from === (fitted === undefined ? minTokens : maxTokens)) return undefined;
    const length = fitted === undefined ? Math.max(minTokens, from - step) : Math.min(maxTokens, from + step);
    step *= 2;
    return length;
  }
}
