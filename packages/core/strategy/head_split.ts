/**
 * Attention heads that ranks divide among themselves. Legend: R ranks, H query heads, K kv heads.
 *
 * Rank r has query heads r·H/R to (r+1)·H/R, and the kv heads that these read: K/R of its own where there are enough, else
 * the one that it shares with R/K − 1 neighbours.
 *
 * @module
 */

import type { AttentionShape } from "../backend/ops.ts";
import { UnsupportedTopologyError } from "./unsupported.ts";

/** Numbers of heads. */
export type HeadCounts = Pick<AttentionShape, "heads" | "kvHeads">;

/**
 * Refuses heads that cannot be split over ranks.
 *
 * @throws {UnsupportedTopologyError} when the query heads are no multiple of the ranks, or when neither the kv heads are a
 * multiple of the ranks nor the ranks a multiple of the kv heads
 */
export function checkHeadSplit({ heads, kvHeads }: HeadCounts, ranks: number): void {
  if (heads % ranks !== 0) {
    throw new UnsupportedTopologyError(
      `Cannot split ${heads} heads across ${ranks} ranks: heads must be a multiple of the ranks`,
    );
  }
  if (kvHeads % ranks !== 0 && ranks % kvHeads !== 0) {
    throw new UnsupportedTopologyError(
      `Cannot split ${kvHeads} kv heads across ${ranks} ranks: ` +
        "kv heads must be a multiple of the ranks, or the ranks a multiple of the kv heads",
    );
  }
}

/** What each rank has of `heads` heads, and how many neighbours have the same; `checkHeadSplit` says which can be split. */
export function headShare(heads: number, ranks: number): { readonly own: number; readonly copies: number } {
  return { own: Math.max(1, heads / ranks), copies: Math.max(1, ranks / heads) };
}

/** Heads of each rank; `checkHeadSplit` says which can be split. */
export function headsOfRank({ heads, kvHeads }: HeadCounts, ranks: number): { heads: number; kvHeads: number } {
  return { heads: headShare(heads, ranks).own, kvHeads: headShare(kvHeads, ranks).own };
}
