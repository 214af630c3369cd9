/**
 * `--compare-strategies`: every parallel strategy beside one rank, at two lengths.
 *
 * @module
 */

import type { PlannedRun } from "../config/run_config.ts";
import { describeComparison } from "../report/run_report.ts";
import type { ReportedRun } from "../report/reported_run.ts";
import { formatStrategies, strategyFigures } from "../report/strategies_report.ts";
import { formatCount } from "../report/units.ts";
import { measureWithinMemory, type ModeContext, type Outcome } from "./mode.ts";

/** Makes the planned runs and compares them. */
export async function compareStrategies(planned: readonly PlannedRun[], context: ModeContext): Promise<Outcome> {
  const runs: ReportedRun[] = [];
  for (const { name, config, unsupported } of planned) {
    const shown = `${name}, ${formatCount(config.train.seqTokens)} tokens`;
    runs.push(
      unsupported === undefined
        ? { ...await measureWithinMemory(shown, config, context), name }
        : { name, config, unsupported },
    );
  }
  return {
    text: `${describeComparison(planned)}\n\n${formatStrategies(runs)}`,
    runs,
    details: { strategies: strategyFigures(runs) },
  };
}
