/**
 * Running a job on ranks: starts their processes, introduces them to each other, and sees every one of them end.
 *
 * @module
 */

import type { StepReport } from "@mst/core";
import { rankEnvironment } from "../hardware/gpu_devices.ts";
import { allocatorEnvironment } from "./allocator.ts";
import { describeFailure, type RankRecord } from "./rank_failure.ts";
import { RankProcess } from "./rank_process.ts";
import type { RankEvent, RankJob, RankResult } from "./rank_protocol.ts";
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
  /** Ends the launch early; its reason is then thrown. */
  readonly signal?: AbortSignal;
  /** Told every event of every rank. */
  readonly onEvent?: (rank: number, event: RankEvent) => void;
}

/** What one rank did. */
export interface LaunchedRank {
  /** Reports of its steps. */
  readonly steps: readonly StepReport[];
  /** What it used. */
  readonly result: RankResult;
}

/**
 * Runs a job and resolves to what each rank did. When it returns or throws, no process is left.
 *
 * @throws {RankFailedError} when a rank fails, naming it and why; the others are ended
 */
export async function launch({ job, gpus, signal, onEvent }: LaunchOptions): Promise<LaunchedRank[]> {
  const token = crypto.randomUUID();
  const records: RankRecord[] = Array.from({ length: job.run.ranks }, (_, rank) => ({ rank, steps: [] }));
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
          order: { rank: record.rank, token, job },
          environment: { ...allocatorEnvironment(), ...rankEnvironment(gpus, record.rank) },
          onEvent: (event) => {
            noteEvent(record, event, processes);
            if (event.type === "failed") failed.resolve();
            onEvent?.(record.rank, event);
          },
        }),
      );
    }
    const ended = Promise.all(processes.map(async (process, rank) => {
      records[rank].exit = await process.exit;
      records[rank].endedAtMs = performance.now();
      if (!records[rank].result) failed.resolve();
    }));
    const pids = processes.map(({ pid }) => pid);
    const timeoutMs = job.run.timeoutSeconds * 1000 + PEERS_FIRST_MS;
    const stopped = watchForStopped({ pids, timeoutMs, signal: watch.signal })
      .then((rank) => {
        if (rank !== undefined) records[rank].wasStopped = true;
      });
    await Promise.race([ended, failed.promise, stopped, aborted.promise]);
    signal?.throwIfAborted();
    if (records.every(({ result, exit }) => result && exit)) return records.map(toLaunchedRank);
    await Promise.race([ended, delay(GRACE_MS), aborted.promise]);
    signal?.throwIfAborted();
    throw describeFailure(records, processes.map(({ stderrTail }) => stderrTail));
  } finally {
    watch.abort();
    for (const process of processes) process.kill();
    await Promise.all(processes.map(({ exit }) => exit));
  }
}

function noteEvent(record: RankRecord, event: RankEvent, processes: readonly RankProcess[]): void {
  if (event.type === "listening") {
    for (const process of processes) if (process.rank > 0) process.tellRendezvous(event.url);
  } else if (event.type === "step") record.steps.push(event.report);
  else if (event.type === "done") record.result = event.result;
  else if (event.type === "failed") {
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
