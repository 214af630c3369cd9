/**
 * Counting of what a rank exchanges.
 *
 * @module
 */
import type { TransportStats } from "./process_group.ts";

/** Counts as they grow; `snapshot` is what the process group shows. */
export class StatsCounter {
  #bytesSent = 0;
  #bytesReceived = 0;
  #messagesSent = 0;
  readonly #collectives: Record<string, number> = {};

  /** Counts one message handed to the link. */
  sent(bytes: number): void {
    this.#bytesSent += bytes;
    this.#messagesSent += 1;
  }

  /** Counts one message handed to the caller. */
  received(bytes: number): void {
    this.#bytesReceived += bytes;
  }

  /** Counts one call of a collective. */
  collective(name: string): void {
    this.#collectives[name] = (this.#collectives[name] ?? 0) + 1;
  }

  /** The counts so far, in an object that does not change. */
  snapshot(): TransportStats {
    return {
      bytesSent: this.#bytesSent,
      bytesReceived: this.#bytesReceived,
      messagesSent: this.#messagesSent,
      collectives: { ...this.#collectives },
    };
  }
}

/** What was exchanged between two snapshots of the same group; collectives that were not called are left out. */
export function statsSince(later: TransportStats, earlier: TransportStats): TransportStats {
  const collectives: Record<string, number> = {};
  for (const [name, count] of Object.entries(later.collectives)) {
    const calls = count - (earlier.collectives[name] ?? 0);
    if (calls > 0) collectives[name] = calls;
  }
  return {
    bytesSent: later.bytesSent - earlier.bytesSent,
    bytesReceived: later.bytesReceived - earlier.bytesReceived,
    messagesSent: later.messagesSent - earlier.messagesSent,
    collectives,
  };
}

/** What two groups have exchanged together. */
export function addStats(one: TransportStats, other: TransportStats): TransportStats {
  const collectives: Record<string, number> = { ...one.collectives };
  for (const [name, count] of Object.entries(other.collectives)) collectives[name] = (collectives[name] ?? 0) + count;
  return {
    bytesSent: one.bytesSent + other.bytesSent,
    bytesReceived: one.bytesReceived + other.bytesReceived,
    messagesSent: one.messagesSent + other.messagesSent,
    collectives,
  };
}
