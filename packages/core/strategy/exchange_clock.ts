/**
 * Measures for how long ranks exchange.
 *
 * @module
 */

/** Adds up the time in which at least one exchange is under way. */
export class ExchangeClock {
  readonly #now: () => number;
  #running = 0;
  #lastMs = 0;
  #communicationMs = 0;

  /** @param now clock in milliseconds; replaced in tests */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Runs an exchange and counts the time until it settles. */
  async exchange<T>(run: () => Promise<T>): Promise<T> {
    this.#advance();
    this.#running++;
    try {
      return await run();
    } finally {
      this.#advance();
      this.#running--;
    }
  }

  /** Takes the time since the last call, in milliseconds. */
  takeMs(): number {
    this.#advance();
    const communicationMs = this.#communicationMs;
    this.#communicationMs = 0;
    return communicationMs;
  }

  #advance(): void {
    const nowMs = this.#now();
    if (this.#running > 0) this.#communicationMs += nowMs - this.#lastMs;
    this.#lastMs = nowMs;
  }
}
