/**
 * The exchange that strategies make in the middle of a layer.
 *
 * @module
 */

import type { ProcessGroup } from "../transport/process_group.ts";

/**
 * Sends each rank its part, and gives the parts of all for this one; resolves once every rank has its parts. The next read
 * of the device stops the event loop of Deno, and with it what this rank still has to send: without the barrier, ranks
 * that wait for it would compute only after it; without a turn of the loop, the last message of the barrier would be held
 * back itself.
 */
export async function exchangeParts(
  group: ProcessGroup,
  parts: readonly Uint8Array[],
): Promise<Uint8Array<ArrayBuffer>[]> {
  const received = await group.allToAll(parts);
  await group.barrier();
  await new Promise((resolve) => setTimeout(resolve, 0));
  return received;
}
