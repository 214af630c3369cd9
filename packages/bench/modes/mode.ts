/**
 * What every mode of the bench is given, and what it comes to.
 *
 * @module
 */

import { launchShown } from "../commands/launch_shown.ts";
import type { RunConfig } from "../config/run_config.ts";
import { RankFailedError } from "../launcher/rank_failure.ts";
import type { HostShare } from "../launcher/rank_protocol.ts";
import { type RunSummary, summarize } from "../measure/summary.ts";
import type { ReportedRun } from "../report/reported_run.ts";

/** What a mode came to. */
export interface Outcome {
  /** The report for people. */
  readonly text: string;
  /** Every run that was made. */
  readonly runs: readonly ReportedRun[];
  /** What the JSON report has besides the runs. */
  readonly details?: Readonly<Record<string, unknown>>;
  /** Whether something is not as it should be. */
  readonly failed?: boolean;
}

/** Where and how the runs of a mode are made. */
export interface ModeContext {
  /** PCI addresses of the GPUs that ranks take turns on. */
  readonly gpus: readonly string[];
  /** The ranks of this host, where others have ranks, too. */
  readonly host?: HostShare;
  /** Ends the runs early. */
  readonly signal: AbortSignal;
}

/** Makes a run; `name` is what its progress starts with. */
export async function measure(
  name: string,
  run: RunConfig,
  { gpus, host, signal }: ModeContext,
  captureFolder?: string,
): Promise<RunSummary> {
  return summarize(run, await launchShown(name, { job: { run, captureFolder }, gpus, host, signal }));
}

/** As {@linkcode measure}; running out of memory is a result, too. */
export async function measureWithinMemory(
  name: string,
  config: RunConfig,
  context: ModeContext,
): Promise<ReportedRun> {
  try {
    return { name, config, summary: await measure(name, config, context) };
  } catch (error) {
    if (!(error instanceof RankFailedError && error.outOfMemory)) throw error;
    return { name, config, outOfMemory: error.message };
  }
}
