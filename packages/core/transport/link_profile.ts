/**
 * Measuring the links between ranks.
 *
 * @module
 */
import type { ProcessGroup } from "./process_group.ts";
import { release } from "./release.ts";

/** What a link between two ranks can do, as the lower one measured it. */
export interface LinkProfile {
  /** The lower rank. */
  readonly from: number;
  /** The higher rank. */
  readonly to: number;
  /** Median time of a message of a few bytes and its answer, in milliseconds. */
  readonly roundTripMs: number;
  /** Payload bytes a second from the lower rank to the higher. */
  readonly bytesPerSecond: number;
  /** Payload bytes a second from the higher rank to the lower. */
  readonly bytesPerSecondBack: number;
}

/** An odd number, so that one of them is the median; the first ones find caches and code cold. */
const PINGS = 15;
const LABEL = "link profile";
/** Messages double from the first length until one takes long enough for the clock and the link's own ramp-up. */
const FIRST_BYTES = 64 * 1024;
const LAST_BYTES = 16 * 1024 * 1024;
const LONG_ENOUGH_MS = 30;
/** Leading bytes of a request: the length of the answer that is wanted, or none after the last one. */
const HEAD_BYTES = 8;
const NO_MORE = -1;

/**
 * Measures every link, one at a time, so that none takes bandwidth from another; a collective of all ranks. Resolves to
 * the links from this rank to higher ones. Takes a fraction of a second a link, longer where it is slow.
 *
 * @throws {PeerError} If the group has failed
 */
export async function measureLinks(group: ProcessGroup): Promise<LinkProfile[]> {
  const links: LinkProfile[] = [];
  for (let from = 0; from < group.size; from++) {
    for (let to = from + 1; to < group.size; to++) {
      if (group.rank === from) links.push(await measure(group, to));
      if (group.rank === to) await answer(group, from);
      await group.barrier();
    }
  }
  return links;
}

async function measure(group: ProcessGroup, to: number): Promise<LinkProfile> {
  const times: number[] = [];
  for (let ping = 0; ping < PINGS; ping++) times.push(await askMs(group, to, {}));
  const roundTripMs = times.sort((a, b) => a - b)[PINGS >> 1];
  const profile = {
    from: group.rank,
    to,
    roundTripMs,
    bytesPerSecond: await measureRate((sentBytes) => askMs(group, to, { sentBytes }), roundTripMs),
    bytesPerSecondBack: await measureRate((wantedBytes) => askMs(group, to, { wantedBytes }), roundTripMs),
  };
  const last = request(group, 0, NO_MORE);
  await group.send(to, last, LABEL);
  group.memory.give(last);
  return profile;
}

/** Answers the requests of `from` until it has no more. */
async function answer(group: ProcessGroup, from: number): Promise<void> {
  while (true) {
    const asked = await group.recv(from, LABEL);
    const wantedBytes = new DataView(asked.buffer).getFloat64(0);
    release(asked);
    if (wantedBytes === NO_MORE) return;
    const answer = group.memory.bytes(wantedBytes);
    await group.send(from, answer, LABEL);
    group.memory.give(answer);
  }
}

/** Bytes a second of messages of some length, without the time that a message takes whatever its length. */
async function measureRate(takesMs: (bytes: number) => Promise<number>, roundTripMs: number): Promise<number> {
  let bytes = FIRST_BYTES;
  let ms = await takesMs(bytes);
  while (ms < LONG_ENOUGH_MS + roundTripMs && bytes < LAST_BYTES) {
    bytes *= 2;
    ms = await takesMs(bytes);
  }
  // A link whose delay varies can take less than it did for nothing at all.
  return bytes / Math.max(ms - roundTripMs, ms / 2) * 1000;
}

/** Milliseconds of a request and its answer, with that many bytes in the one and the other. */
async function askMs(
  group: ProcessGroup,
  to: number,
  { sentBytes = 0, wantedBytes = 0 }: { sentBytes?: number; wantedBytes?: number },
): Promise<number> {
  const message = request(group, sentBytes, wantedBytes);
  const startMs = performance.now();
  const [answer] = await Promise.all([group.recv(to, LABEL), group.send(to, message, LABEL)]);
  const ms = performance.now() - startMs;
  group.memory.give(message);
  release(answer);
  return ms;
}

function request({ memory }: ProcessGroup, sentBytes: number, wantedBytes: number): Uint8Array {
  const bytes = memory.bytes(HEAD_BYTES + sentBytes);
  new DataView(bytes.buffer).setFloat64(0, wantedBytes);
  return bytes;
}
