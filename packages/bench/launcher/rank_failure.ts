/**
 * Telling which rank failed, and why, from what every rank said and how its process ended.
 *
 * @module
 */

import type { StepReport } from "@mst/core";
import type { RankExit } from "./rank_process.ts";
import type { LaunchedRank, RankFailure, RankResult } from "./rank_protocol.ts";

/** What is known of a rank. */
export interface RankRecord {
  /** Number of the rank. */
  readonly rank: number;
  /** Reports of its steps. */
  readonly steps: StepReport[];
  /** What it used, once it is done. */
  result?: RankResult;
  /** What all ranks did, where other commands have started some of them. */
  all?: readonly LaunchedRank[];
  /** Why it said that it ends early. */
  failure?: RankFailure;
  /** When it said so. */
  failedAtMs?: number;
  /** How its process ended. */
  exit?: RankExit;
  /** When it ended. */
  endedAtMs?: number;
  /** Whether its process was stopped for longer than the timeout. */
  wasStopped?: boolean;
}

/** A rank failed, and the others were ended. The message names it and why, in a line. */
export class RankFailedError extends Error {
  override readonly name = "RankFailedError";

  /**
   * @param rank the rank that failed first
   * @param reason why
   * @param outOfMemory whether memory, of device or host, was not enough
   * @param stderrTail last lines that it wrote, where they say more than the reason
   */
  constructor(
    readonly rank: number,
    readonly reason: string,
    readonly outOfMemory: boolean,
    readonly stderrTail: readonly string[],
  ) {
    super(`rank ${rank} failed: ${reason}`);
  }
}

/** Errors that say all there is to say; others are shown with the last lines of stderr, where their stack is. */
const SELF_EXPLAINING: readonly string[] = [
  "PeerError",
  "DeviceError",
  "ListenError",
  "NoGpuError",
  "RangeError",
  "MemoryBudgetError",
  "UnsupportedTopologyError",
  "UnsupportedModelError",
  "SafetensorsError",
  "CheckpointError",
];

/**
 * The failure that explains all others: a rank's own error or death before what its peers saw of it.
 *
 * @param stderrTails last lines of stderr of every record's rank
 */
export function describeFailure(
  records: readonly RankRecord[],
  stderrTails: readonly (readonly string[])[],
): RankFailedError {
  const unfinished = records.filter(({ result }) => !result);
  const own = unfinished.filter(({ failure }) => failure && !failure.peer)
    .map((record) => ({ record, atMs: record.failedAtMs! }));
  const died = unfinished.filter(({ failure, exit }) => !failure && exit)
    .map((record) => ({ record, atMs: record.endedAtMs! }));
  const [culprit] = [...own, ...died].sort((a, b) => a.atMs - b.atMs);
  if (culprit) return describeOwn(culprit.record, stderrTails[records.indexOf(culprit.record)]);

  const [seen] = unfinished.filter(({ failure }) => failure?.peer).sort((a, b) => a.failedAtMs! - b.failedAtMs!);
  // Who refuses a rank is well; it is the refused one that cannot run.
  if (seen?.failure?.peer?.kind === "unauthorized") {
    return new RankFailedError(seen.rank, seen.failure!.message, false, []);
  }
  const sight = seen && `${seen.failure!.message} (as rank ${seen.rank} saw it)`;
  const stopped = records.find(({ wasStopped }) => wasStopped);
  if (!stopped) return new RankFailedError(seen.failure!.peer!.origin, sight, false, []);
  const reason = ["its process was stopped (SIGSTOP)", ...(sight ? [sight] : [])].join(": ");
  return new RankFailedError(stopped.rank, reason, false, []);
}

function describeOwn({ rank, failure, exit }: RankRecord, stderrTail: readonly string[]): RankFailedError {
  if (failure) {
    const tail = SELF_EXPLAINING.includes(failure.name) ? [] : stderrTail;
    return new RankFailedError(rank, `${failure.name}: ${failure.message}`, failure.outOfMemory, tail);
  }
  if (exit!.signal === "SIGKILL") {
    const reason = "its process was ended by SIGKILL (the system does so when memory runs out)";
    return new RankFailedError(rank, reason, false, stderrTail);
  }
  const how = exit!.signal ? `was ended by ${exit!.signal}` : `ended with exit code ${exit!.code}`;
  return new RankFailedError(rank, `its process ${how}`, false, stderrTail);
}
