/**
 * Wall time per op of the reference backend.
 *
 * @module
 */

import type { KernelTime } from "../backend.ts";

/** Runs ops and adds up the time they take, if wanted by kernel. */
export class OpTimer {
  readonly #perKernel: boolean;
  #busyMs = 0;
  readonly #times = new Map<string, { dispatches: number; totalMs: number }>();

  /** @param perKernel whether to add up by kernel */
  constructor(perKernel: boolean) {
    this.#perKernel = perKernel;
  }

  /** Runs one op, counted under the name of its kernel. */
  run(kernel: string, op: () => void): void {
    const startMs = performance.now();
    op();
    const ms = performance.now() - startMs;
    this.#busyMs += ms;
    if (!this.#perKernel) return;
    const time = this.#times.get(kernel) ?? { dispatches: 0, totalMs: 0 };
    time.dispatches++;
    time.totalMs += ms;
    this.#times.set(kernel, time);
  }

  /** Time of all ops since the last call, in milliseconds. */
  takeBusyMs(): number {
    const busyMs = this.#busyMs;
    this.#busyMs = 0;
    return busyMs;
  }

  /** Times since the last call, longest first. */
  take(): KernelTime[] {
    const times = [...this.#times].map(([kernel, time]) => ({ kernel, ...time }));
    this.#times.clear();
    return times.sort((a, b) => b.totalMs - a.totalMs);
  }
}
