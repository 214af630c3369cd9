/**
 * Measures how much of an exchange is hidden behind compute.
 *
 * @module
 */

/** Times since they were last taken, in milliseconds. */
export interface OverlapTimes {
  /** Time in which at least one exchange was under way. */
  readonly communicationMs: number;
  /** The part of it in which no device work was under way. */
  readonly exposedMs: number;
}

/**
 * Watches two kinds of intervals, exchanges and device work, and adds up the time in which an exchange ran, with and
 * without device work beside it.
 */
export class OverlapClock {
  readonly #now: () => number;
  #exchanges = 0;
  #deviceWork = 0;
  #lastMs: number;
  #communicationMs = 0;
  #exposedMs = 0;

  /** @param now clock in milliseconds; replaced in tests */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#lastMs = now();
  }

  /** Runs an exchange and counts the time until it settles. */
  async exchange<T>(run: () => Promise<T>): Promise<T> {
    this.#advance();
    this.#exchanges++;
    try {
      return await run();
    } finally {
      this.#advance();
      this.#exchanges--;
    }
  }

  /** Counts the time until device work that was handed over completes; errors are left to whoever waits for it. */
  deviceWork(done: Promise<unknown>): void {
    this.#advance();
    this.#deviceWork++;
    const end = () => {
      this.#advance();
      this.#deviceWork--;
    };
    done.then(end, end);
  }

  /** Takes the times since the last call. */
  take(): OverlapTimes {
    this.#advance();
    const times = { communicationMs: this.#communicationMs, exposedMs: this.#exposedMs };
    this.#communicationMs = 0;
    this.#exposedMs = 0;
    return times;
  }

  #advance(): void {
    const now = this.#now();
    const elapsedMs = now - this.#lastMs;
    this.#lastMs = now;
    if (this.#exchanges === 0) return;
    this.#communicationMs += elapsedMs;
    if (this.#deviceWork === 0) this.#exposedMs += elapsedMs;
  }
}
