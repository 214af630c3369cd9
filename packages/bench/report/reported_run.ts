/**
 * A run as reports have it.
 *
 * @module
 */

import type { RunConfig } from "../config/run_config.ts";
import type { RunSummary } from "../measure/summary.ts";

/** A run and what became of it. */
export interface ReportedRun {
  /** What it is called. */
  readonly name: string;
  /** How it was made. */
  readonly config: RunConfig;
  /** What it came to; absent when it did not run to its end. */
  readonly summary?: RunSummary;
  /** What there was no memory for. */
  readonly outOfMemory?: string;
  /** Why the strategy cannot serve it. */
  readonly unsupported?: string;
}
