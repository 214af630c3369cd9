/**
 * `--longest`: the longest sequence that trains under a memory budget, found by training.
 *
 * @module
 */

import { planLongest } from "../config/longest_plan.ts";
import type { LengthSearch, RunConfig } from "../config/run_config.ts";
import { describeRun, formatMemory } from "../report/run_report.ts";
import type { ReportedRun } from "../report/reported_run.ts";
import { formatFacts, formatTable } from "../report/table.ts";
import { formatBytes, formatCount, formatNumberOf, formatRate } from "../report/units.ts";
import { measureWithinMemory, type ModeContext, type Outcome } from "./mode.ts";
import { type FoundLength, searchLongest } from "./search_longest.ts";

/** Trains at one length after another; the ledger of every rank keeps to the budget of the run. */
export async function findLongest(run: RunConfig, maxTokens: number, context: ModeContext): Promise<Outcome> {
  const search = planLongest(run, maxTokens);
  const runs: ReportedRun[] = [];
  const found = await searchLongest(search, async (seqTokens) => {
    const config: RunConfig = { ...run, train: { ...run.train, seqTokens } };
    const name = `${formatCount(seqTokens)} tokens`;
    const tried = await measureWithinMemory(name, config, context);
    runs.push(tried);
    return tried.summary !== undefined;
  });
  const best = runs.find(({ config, summary }) => summary && config.train.seqTokens === found?.seqTokens);
  const longest = {
    ...found,
    budgetBytes: run.memoryBudgetBytes,
    unitTokens: search.unitTokens,
    peakBytes: best?.summary?.ranks.map(({ peak }) => peak.totalBytes) ?? [],
  };
  return { text: describe(run, search, runs, found, best), runs, details: { longest }, failed: found === undefined };
}

function describe(
  run: RunConfig,
  search: LengthSearch,
  runs: readonly ReportedRun[],
  found: FoundLength | undefined,
  best: ReportedRun | undefined,
): string {
  const budget = formatBytes(run.memoryBudgetBytes!);
  const tried = formatTable(
    ["tokens", "peak a rank", "tokens/s"],
    runs.map(({ config, summary }) => [
      formatCount(config.train.seqTokens),
      summary ? formatBytes(summary.peakDeviceBytes) : "out of memory",
      summary ? formatRate(summary.tokensPerSecond.median) : "",
    ]),
  );
  const { outOfMemory } = runs.findLast((each) => each.outOfMemory !== undefined) ?? {};
  const reason = outOfMemory === undefined ? [] : [outOfMemory];
  if (!found) {
    return [
      `no sequence fits in ${budget} a rank: ${formatCount(search.minTokens)} tokens are too many`,
      tried,
      ...reason,
    ]
      .join("\n\n");
  }
  const { seqTokens, exceededTokens } = found;
  const facts = formatFacts([
    ["longest sequence", `${formatCount(seqTokens)} tokens under a budget of ${budget} a rank`],
    [
      "next length",
      exceededTokens === undefined
        ? "none: the text has no longer sequence"
        : `${formatCount(exceededTokens)} tokens, out of memory`,
    ],
    ["found by", `${formatNumberOf(runs.length, "run")} of ${formatNumberOf(run.train.steps, "step")}`],
  ]);
  return [describeRun(best!.config), facts, tried, ...reason, formatMemory(best!.summary!)].join("\n\n");
}
