/**
 * Which tensors are exchanged together.
 *
 * @module
 */

import type { Segment } from "../transport/collectives.ts";

/** Elements of a lot of several tensors: long enough for the throughput of a device and of a link. */
const LOT_ELEMENTS = 8 * 2 ** 20;

/** Cuts tensors of given sizes into lots of neighbours, of a bounded number of elements if they are more than one. */
export function cutIntoLots(sizes: readonly number[]): Segment[] {
  const lots: { start: number; end: number }[] = [];
  let elements = Infinity;
  for (const [i, size] of sizes.entries()) {
    if (elements + size > LOT_ELEMENTS) {
      lots.push({ start: i, end: i });
      elements = 0;
    }
    lots.at(-1)!.end = i + 1;
    elements += size;
  }
  return lots;
}
