/**
 * Work on all ranks of a run, with the traffic that it must cost.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { pairedSegment, PIECE_FLOATS } from "../../packages/core/transport/collectives.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import { statsSince } from "../../packages/core/transport/stats.ts";

/** Runs the same work on every rank at once. */
export function onRanks<T>(groups: readonly ProcessGroup[], work: (group: ProcessGroup) => Promise<T>): Promise<T[]> {
  return Promise.all(groups.map(work));
}

/** Work of one rank with the traffic that it must cost, to the byte. */
export interface ExpectedTraffic {
  run(): Promise<void>;
  bytesSent: number;
  bytesReceived: number;
  messagesSent: number;
  collectives: Record<string, number>;
}

/** Runs the work on every rank at once, and compares what each exchanged with what it must have. */
export async function checkTraffic(
  groups: ProcessGroup[],
  expect: (group: ProcessGroup) => ExpectedTraffic,
): Promise<void> {
  await onRanks(groups, async (group) => {
    const { run, ...expected } = expect(group);
    const before = group.stats;
    await run();
    assertEquals(statsSince(group.stats, before), expected, `traffic of rank ${group.rank}`);
  });
}

/** Traffic of a ring reduce-scatter and a ring all-gather of `length` floats. */
export function ringReduceTraffic(
  length: number,
  size: number,
  rank: number,
): Omit<ExpectedTraffic, "run" | "collectives"> {
  if (size === 1) return { bytesSent: 0, bytesReceived: 0, messagesSent: 0 };
  const own = segmentLength(length, size, rank);
  const next = segmentLength(length, size, rank + 1);
  const previous = segmentLength(length, size, rank - 1);
  return {
    bytesSent: 4 * ((length - own) + (length - next)),
    bytesReceived: 4 * ((length - previous) + (length - own)),
    messagesSent: ringReduceMessages(length, size, rank) + ringReduceMessages(length, size, rank + 1),
  };
}

/** Messages in which all segments but that of rank `left` are sent: whole pieces, and a shorter one behind. */
export function ringReduceMessages(length: number, size: number, left: number): number {
  let messages = 0;
  for (let index = 0; index < size; index++) {
    if (index === left % size) continue;
    messages += Math.floor(segmentLength(length, size, index) / PIECE_FLOATS) + 1;
  }
  return messages;
}

/** Length of a rank's segment; ranks wrap around. */
export function segmentLength(length: number, size: number, index: number): number {
  const { start, end } = pairedSegment(length, size, (index + size) % size);
  return end - start;
}
