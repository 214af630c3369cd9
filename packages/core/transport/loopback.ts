/**
 * All ranks in one process, for tests and for strategies tried without processes.
 *
 * @module
 */
import type { PeerFailure } from "./errors.ts";
import { BaseLink } from "./link.ts";
import { LinkedGroup } from "./linked_group.ts";
import type { ProcessGroup } from "./process_group.ts";

/** Options of {@linkcode createLoopbackGroups}. */
export interface LoopbackOptions {
  /** Milliseconds for which a receiver waits for its peer, 60 000 by default. */
  readonly timeoutMs?: number;
}

/**
 * Creates the process groups of `size` ranks that share this process. Data is copied when it is sent, so that a program
 * which works here does not rely on shared memory.
 *
 * @example
 * ```ts
 * const [first, second] = createLoopbackGroups(2);
 * await first.send(1, new Uint8Array([1, 2, 3]), "greeting");
 * await second.recv(0, "greeting"); // Uint8Array [1, 2, 3]
 * ```
 *
 * @throws {RangeError} If the number of ranks is no positive integer
 */
export function createLoopbackGroups(size: number, { timeoutMs = 60_000 }: LoopbackOptions = {}): ProcessGroup[] {
  if (!Number.isInteger(size) || size < 1) throw new RangeError(`Cannot create ${size} ranks: wanted 1 or more`);
  const links = Array.from({ length: size }, () => new Array<LoopbackLink | undefined>(size).fill(undefined));
  for (let low = 0; low < size; low++) {
    for (let high = low + 1; high < size; high++) {
      const toHigh = new LoopbackLink(high, timeoutMs);
      const toLow = new LoopbackLink(low, timeoutMs);
      toHigh.join(toLow);
      toLow.join(toHigh);
      links[low][high] = toHigh;
      links[high][low] = toLow;
    }
  }
  return links.map((row, rank) => new LinkedGroup({ rank, links: row }));
}

/** One end of a pair; what one end does reaches the other in a later microtask, as over a socket. */
class LoopbackLink extends BaseLink {
  #other: LoopbackLink | undefined;

  join(other: LoopbackLink): void {
    this.#other = other;
  }

  override send(label: string, data: Uint8Array): Promise<void> {
    return Promise.try(() => {
      if (this.departed) this.faultDeparted();
      this.throwIfFailed();
      const copy = data.slice() as Uint8Array<ArrayBuffer>;
      this.#reach((other) => other.#accept(label, copy));
    });
  }

  override abort(failure: PeerFailure, detail: string): void {
    this.#reach((other) => other.fault("aborted", detail, failure.origin));
    this.fail(failure);
  }

  override close(reason: PeerFailure): Promise<void> {
    this.beginClose(reason);
    this.#reach((other) => other.depart());
    return Promise.resolve();
  }

  protected override describeWant(): string {
    return "wanted a message";
  }

  #accept(label: string, data: Uint8Array<ArrayBuffer>): void {
    this.watch.progress();
    this.deliver({ label, data });
  }

  #reach(action: (other: LoopbackLink) => void): void {
    const other = this.#other;
    if (other) queueMicrotask(() => action(other));
  }
}
