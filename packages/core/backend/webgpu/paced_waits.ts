/**
 * Waiting for Dawn without turning the event loop as fast as it goes.
 *
 * Dawn asks the device for news in one immediate after the other, and leaves a function behind for each, whose disposal
 * takes Deno time that grows with the square of their number: seconds after a wait of a few seconds. So turns of the event
 * loop in which nothing happens are slowed down while anybody waits. Turns in which something happens are not: messages
 * from other threads come one a turn.
 *
 * @module
 */

import { setImmediate } from "node:timers";

/** Time of a turn from which on something has happened in it. */
const EVENTFUL_MS = 0.1;

/** Pause after the first turn without an event, by how much each further one is longer, and the longest. */
const FIRST_PAUSE_MS = 0.02;
const GROWTH = 1.3;
const LONGEST_PAUSE_MS = 1;

const NEVER_WOKEN = new Int32Array(new SharedArrayBuffer(4));

/** All waits for the devices of one Dawn. */
export class PacedWaits {
  #waits = 0;
  #isTurning = false;
  #pauseMs = 0;
  #resumedMs = 0;

  /** Waits for what a device does. */
  async waitFor<T>(pending: Promise<T>): Promise<T> {
    this.#waits++;
    if (!this.#isTurning) this.#begin();
    try {
      return await pending;
    } finally {
      this.#waits--;
    }
  }

  #begin(): void {
    this.#isTurning = true;
    this.#resume(0);
  }

  #resume(pauseMs: number): void {
    this.#pauseMs = pauseMs;
    this.#resumedMs = performance.now();
    setImmediate(() => this.#turn());
  }

  #turn(): void {
    if (this.#waits === 0) {
      this.#isTurning = false;
      return;
    }
    const isEventful = performance.now() - this.#resumedMs > EVENTFUL_MS;
    const pauseMs = isEventful ? 0 : Math.min(LONGEST_PAUSE_MS, Math.max(FIRST_PAUSE_MS, this.#pauseMs * GROWTH));
    if (pauseMs > 0) Atomics.wait(NEVER_WOKEN, 0, 0, pauseMs);
    this.#resume(pauseMs);
  }
}
