/**
 * `--compare`: what recomputation and mini-sequences save, and what they cost.
 *
 * @module
 */

import type { RunConfig } from "../config/run_config.ts";
import { formatVariants, variantRatios } from "../report/comparison_report.ts";
import type { ReportedRun } from "../report/reported_run.ts";
import { describeRun, formatMemory } from "../report/run_report.ts";
import { measureWithinMemory, type ModeContext, type Outcome } from "./mode.ts";

/** The runs, in order. */
const VARIANTS = [
  { name: "vanilla", recompute: "none", mlpChunks: 1, headChunks: 1 },
  { name: "recompute", recompute: "layer", mlpChunks: 1, headChunks: 1 },
  { name: "mini-sequence + recompute", recompute: "layer", mlpChunks: "auto", headChunks: "auto" },
] as const;

/** Trains the variants one after another. */
export async function compareVariants(run: RunConfig, context: ModeContext): Promise<Outcome> {
  const runs: ReportedRun[] = [];
  for (const { name, ...train } of VARIANTS) {
    // Without recomputation there are no checkpoints to offload.
    const offload = run.train.offload.filter((what) => what !== "checkpoints" || train.recompute === "layer");
    runs.push(await measureWithinMemory(name, { ...run, train: { ...run.train, ...train, offload } }, context));
  }
  const memory = runs.flatMap(({ name, summary }) => summary ? [`${name}\n${formatMemory(summary)}`] : []);
  return {
    text: [describeRun(run), formatVariants(runs), ...memory].join("\n\n"),
    runs,
    details: { ratios: variantRatios(runs) },
  };
}
