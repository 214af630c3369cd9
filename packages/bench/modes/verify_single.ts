/**
 * `--verify`: whether several ranks compute what one does.
 *
 * @module
 */

import { type RunConfig, singleRank } from "../config/run_config.ts";
import { formatComparisons } from "../report/comparison_report.ts";
import { formatRun } from "../report/run_report.ts";
import { compareCaptures } from "../verify/compare_captures.ts";
import { TOLERANCES } from "../verify/tolerance.ts";
import { measure, type ModeContext, type Outcome } from "./mode.ts";

/** Repeats the run on one rank, and compares loss, gradients and the losses of all steps. */
export async function verifyAgainstSingle(run: RunConfig, context: ModeContext): Promise<Outcome> {
  const single = singleRank(run);
  const folder = await Deno.makeTempDir({ prefix: "mst-verify-" });
  try {
    const [ours, theirs] = [`${folder}/ours`, `${folder}/single`];
    await Promise.all([ours, theirs].map((each) => Deno.mkdir(each)));
    const summary = await measure(run.strategy, run, context, ours);
    const singleSummary = await measure("single", single, context, theirs);
    const comparisons = await compareCaptures({ folder: ours, losses: summary.losses }, {
      folder: theirs,
      losses: singleSummary.losses,
    }, TOLERANCES[run.train.precision]);
    return {
      text: `${formatRun(run, summary)}\n\nagainst one rank\n${formatComparisons(comparisons)}`,
      runs: [{ name: run.strategy, config: run, summary }, { name: "single", config: single, summary: singleSummary }],
      details: { comparisons },
      failed: comparisons.some(({ passed }) => !passed),
    };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
