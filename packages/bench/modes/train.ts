/**
 * One run, measured.
 *
 * @module
 */

import type { RunConfig } from "../config/run_config.ts";
import { formatRun } from "../report/run_report.ts";
import { measure, type ModeContext, type Outcome } from "./mode.ts";

/** Trains and reports. */
export async function train(run: RunConfig, context: ModeContext): Promise<Outcome> {
  const summary = await measure(run.strategy, run, context);
  return { text: formatRun(run, summary), runs: [{ name: run.strategy, config: run, summary }] };
}
