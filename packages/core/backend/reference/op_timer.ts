/**
 * Wall time per op of the reference backend.
 *
 * @module
 */

import type { KernelTime } from "../backend.ts";

/** Runs ops and, if wanted, adds up the time they take. */
export class OpTimer {
  readonly #enabled: boolean;
  readonly #times = new Map<string, { dispatches: number; totalMs: number }>();

  /** @param enabled whether to measure */
  constructor(enabled: boolean) {
    this.#enabled = enabled;
  }

  /** Runs one op, counted under the name of its kernel. */
  run(kernel: string, op: () => void): void {
    if (!this.#enabled) return op();
    const startMs = performance.now();
    op();
    const time = this.#times.get(kernel) ?? { dispatches: 0, totalMs: 0 };
    time.dispatches++;
    time.totalMs += performance.now() - startMs;
    this.#times.set(kernel, time);
  }

  /** Times since the last call, longest first. */
  take(): KernelTime[] {
    const times = [...this.#times].map(([kernel, time]) => ({ kernel, ...time }));
    this.#times.clear();
    return times.sort((a, b) => b.totalMs - a.totalMs);
  }
}
