/**
 * Noticing a process that was stopped (SIGSTOP): it can answer nobody, and alone on a run nobody would ask it.
 *
 * @module
 */

const TICK_MS = 500;

/** Options of {@linkcode watchForStopped}. */
export interface StoppedWatchOptions {
  /** Numbers of the processes. */
  readonly pids: readonly number[];
  /** How long a process may be stopped, in milliseconds. */
  readonly timeoutMs: number;
  /** Ends the watch. */
  readonly signal: AbortSignal;
}

/**
 * Resolves to the index of the first process that has been stopped for the timeout; to undefined when the watch ends before.
 * Time is counted in ticks, so that ranks that were stopped together with the launcher (Ctrl-Z) are not blamed. Sees
 * processes on Linux only.
 */
export async function watchForStopped({ pids, timeoutMs, signal }: StoppedWatchOptions): Promise<number | undefined> {
  const stoppedMs = pids.map(() => 0);
  while (!signal.aborted) {
    await tick(signal);
    for (const [index, pid] of pids.entries()) {
      stoppedMs[index] = await isStopped(pid) ? stoppedMs[index] + TICK_MS : 0;
      if (stoppedMs[index] >= timeoutMs) return index;
    }
  }
  return undefined;
}

/** Whether a process is in state T; its name, in parentheses before the state, may hold anything. */
async function isStopped(pid: number): Promise<boolean> {
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`).catch(() => "");
  return stat.slice(stat.lastIndexOf(")") + 2).startsWith("T");
}

async function tick(signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, TICK_MS);
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}
