/**
 * The exchange that strategies make in the middle of a layer.
 *
 * @module
 */

import type { ProcessGroup } from "../transport/process_group.ts";

/** Sends each rank its part, and gives the parts of all for this one. */
export async function exchangeParts(
  group: ProcessGroup,
  parts: readonly Uint8Array[],
): Promise<Uint8Array<ArrayBuffer>[]> {
  return await group.allToAll(parts);
}
