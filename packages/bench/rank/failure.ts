/**
 * What a rank says of the error that ends it.
 *
 * @module
 */

import { MemoryBudgetError, PeerError } from "@mst/core";
import type { RankFailure } from "../launcher/rank_protocol.ts";

/** How devices, V8 and the operating system say that memory is not enough. */
const OUT_OF_MEMORY =
  /out of memory|not enough memory|allocation failed|larg(er|est) (than|buffer)|invalid (typed )?array/i;

/** Describes an error for the launcher. */
export function toRankFailure(error: unknown): RankFailure {
  if (!(error instanceof Error)) return { name: "Error", message: String(error), outOfMemory: false };
  const { name, message } = error;
  if (!(error instanceof PeerError)) {
    return { name, message, outOfMemory: error instanceof MemoryBudgetError || OUT_OF_MEMORY.test(message) };
  }
  return { name, message, outOfMemory: false, peer: { origin: error.origin, kind: error.kind } };
}
