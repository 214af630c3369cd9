/**
 * Running a job on ranks: starts their processes, introduces them to each other, and sees every one of them end.
 *
 * @module
 */

import { rankEnvironment } from "../hardware/gpu_devices.ts";
import { allocatorEnvironment } from "./allocator.ts";
import { describeFailure, type RankRecord } from "./rank_failure.ts";
import { RankProcess } from "./rank_process.ts";
import type { HostShare, LaunchedRank, RankEvent, RankJob } from "./rank_protocol.ts";
import { watchForStopped } from "./stopped_watch.ts";

/** How long the other ranks are given to say what they saw of a failure; the culprit is then easier to tell. */
const GRACE_MS = 1000;

/** How much later than its peers the launcher gives up a stopped rank: they can say what they waited for. */
const PEERS_FIRST_MS = 1000;

/** Options of {@linkcode launch}. */
export interface LaunchOptions {
  /** What the ranks do. */
  readonly job: RankJob;
  /** PCI addresses of the GPUs that ranks take turns on. */
  readonly gpus: readonly string[];
  /** Which ranks to start where other commands start the rest; all of them when left out. */
  readonly host?: HostShare;
  /** Ends the launch early; its reason is then thrown. */
  readonly signal?: AbortSignal;
  /** Told every event of every rank. */
  readonly onEvent?: (rank: number, event: RankEvent) => void;
}

/**
 * Runs a job and resolves to what each rank did, those of other hosts included. When it returns or throws, no process is
 * left.
 *
 * @throws {RankFailedError} when a rank fails, naming it and why; the others are ended
 */
export async function launch({ job, gpus, host, signal, onEvent }: LaunchOptions): Promise<readonly LaunchedRank[]> {
  const { ranks, token, meeting } = host ?? ownRanks(job);
  const records: RankRecord[] = ranks.map((rank) => ({ rank, steps: [] }));
  const processes: RankProcess[] = [];
  const watch = new AbortController();
  const aborted = Promise.withResolvers<void>();
  const failed = Promise.withResolvers<void>();
  signal?.addEventListener("abort", () => aborted.resolve());
  try {
    signal?.throwIfAborted();
    for (const record of records) {
      processes.push(
        new RankProcess({
          order: { rank: record.rank, token, job, meeting },
          environment: { ...allocatorEnvironment(), ...rankEnvironment(gpus, record.rank) },
          onEvent: (event) => {
            noteEvent(record, event, processes);
            if (event.type === "failed") failed.resolve();
            onEvent?.(record.rank, event);
          },
        }),
      );
    }
    const ended = Promise.all(processes.map(async (process, index) => {
      records[index].exit = await process.exit;
      records[index].endedAtMs = performance.now();
      if (!records[index].result) failed.resolve();
    }));
    const pids = processes.map(({ pid }) => pid);
    const timeoutMs = job.run.timeoutSeconds * 1000 + PEERS_FIRST_MS;
    const stopped = watchForStopped({ pids, timeoutMs, signal: watch.signal })
      .then((index) => {
        if (index !== undefined) records[index].wasStopped = true;
      });
    await Promise.race([ended, failed.promise, stopped, aborted.promise]);
    signal?.throwIfAborted();
    if (records.every(({ result, exit }) => result && exit)) return records[0].all ?? records.map(toLaunchedRank);
    await Promise.race([ended, delay(GRACE_MS), aborted.promise]);
    signal?.throwIfAborted();
    throw describeFailure(records, processes.map(({ stderrTail }) => stderrTail));
  } finally {
    watch.abort();
    for (const process of processes) process.kill();
    await Promise.all(processes.map(({ exit }) => exit));
  }
}

function ownRanks({ run }: RankJob): Partial<HostShare> & Pick<HostShare, "ranks" | "token"> {
  return { ranks: Array.from({ length: run.ranks }, (_, rank) => rank), token: crypto.randomUUID() };
}

function noteEvent(record: RankRecord, event: RankEvent, processes: readonly RankProcess[]): void {
  if (event.type === "listening") {
    for (const process of processes) if (process.rank > 0) process.tellRendezvous(event.url);
  } else if (event.type === "step") record.steps.push(event.report);
  else if (event.type === "done") {
    record.result = event.result;
    record.all = event.all;
  } else if (event.type === "failed") {
    record.failure = event.failure;
    record.failedAtMs = performance.now();
  }
}

function toLaunchedRank({ steps, result }: RankRecord): LaunchedRank {
  return { steps, result: result! };
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
