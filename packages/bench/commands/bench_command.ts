/**
 * `deno task bench`: trains, measures and reports.
 *
 * @module
 */

import { checkBenchFlags, readBenchInputs, resolveBenchPlan } from "../config/bench_plan.ts";
import { readHostOptions } from "../config/host_options.ts";
import type { BenchPlan, RunConfig } from "../config/run_config.ts";
import { runSettings } from "../config/run_settings.ts";
import { BENCH_FLAGS } from "../cli/flags.ts";
import { formatHelp } from "../cli/help.ts";
import { parseFlags } from "../cli/parse_flags.ts";
import { UsageError } from "../cli/usage_error.ts";
import { DRIVER_HINT, type Hardware, probeHardware } from "../hardware/probe.ts";
import { RankFailedError } from "../launcher/rank_failure.ts";
import type { HostShare } from "../launcher/rank_protocol.ts";
import { type RunSummary, summarize } from "../measure/summary.ts";
import { formatComparisons, formatVariants, type Variant, variantRatios } from "../report/comparison_report.ts";
import { describeEnvironment } from "../report/environment.ts";
import { writeJson } from "../report/json_file.ts";
import { describeRun, formatMemory, formatRun } from "../report/run_report.ts";
import { compareCaptures } from "../verify/compare_captures.ts";
import type { Comparison } from "../verify/tolerance.ts";
import { EXIT, EXIT_CODES_TEXT } from "./command.ts";
import { launchShown } from "./launch_shown.ts";

/** The runs of `--compare`, in order. */
const VARIANTS = [
  { name: "vanilla", recompute: "none", mlpChunks: 1, headChunks: 1 },
  { name: "recompute", recompute: "layer", mlpChunks: 1, headChunks: 1 },
  { name: "mini-sequence + recompute", recompute: "layer", mlpChunks: "auto", headChunks: "auto" },
] as const;

/** A run of a plan, as it goes into the JSON report. */
interface ReportedRun extends Variant {
  readonly config: RunConfig;
}

/** What a plan came to. */
interface Outcome {
  readonly text: string;
  readonly runs: readonly ReportedRun[];
  readonly comparisons?: readonly Comparison[];
}

/** Options of the functions that carry out a plan. */
interface PlanContext {
  readonly run: RunConfig;
  readonly gpus: readonly string[];
  /** The ranks of this host, where others have ranks, too. */
  readonly host?: HostShare;
  readonly signal: AbortSignal;
}

/** Runs `deno task bench` with these arguments. */
export async function benchCommand(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { flags, operands } = parseFlags(args, BENCH_FLAGS);
  if (flags.help) {
    console.log(helpText());
    return EXIT.ok;
  }
  if (operands.length > 0) throw new UsageError(`Cannot use ${operands[0]}: flags start with --`);
  const inputs = await readBenchInputs(flags);
  const hostOptions = await readHostOptions(flags);
  checkBenchFlags(flags, inputs);
  const hardware = flags.device === "reference" ? { gpus: [] } : await probeHardware();
  signal.throwIfAborted();
  const plan = resolveBenchPlan(flags, inputs, hardware);
  if (flags["print-config"]) {
    console.log(JSON.stringify({ ...plan, hardware }, undefined, 2));
    return EXIT.ok;
  }
  noteMissingDriver(hardware);
  console.error(describeRun(plan.run));
  const host = hostOptions && {
    ...hostOptions,
    meeting: { ...hostOptions.meeting, settings: await runSettings(plan.run, inputs.text) },
  };
  const { text, runs, comparisons } = await carryOut(plan, { run: plan.run, gpus: hardware.gpus, host, signal });
  console.log(`\n${text}`);
  if (plan.jsonFile !== undefined) {
    const environment = await describeEnvironment("bench", hardware.gpus);
    const ratios = plan.mode === "compare" ? variantRatios(runs) : undefined;
    await writeJson(plan.jsonFile, {
      format: "mst-bench-1",
      ...environment,
      mode: plan.mode,
      runs,
      ratios,
      comparisons,
    });
  }
  return comparisons?.some(({ passed }) => !passed) ? EXIT.failed : EXIT.ok;
}

/** Says in a line that there is no GPU driver, and how to get one. */
export function noteMissingDriver({ problem }: Hardware): void {
  if (problem === undefined) return;
  console.error(`${problem}: computing on the reference backend in plain TypeScript; ${DRIVER_HINT}`);
}

async function carryOut(plan: BenchPlan, context: PlanContext): Promise<Outcome> {
  if (plan.mode === "compare") return await compareVariants(context);
  if (plan.mode === "verify") return await verifyAgainstSingle(context);
  const summary = await measure(plan.run.strategy, plan.run, context);
  return { text: formatRun(plan.run, summary), runs: [{ name: plan.run.strategy, config: plan.run, summary }] };
}

async function compareVariants(context: PlanContext): Promise<Outcome> {
  const runs: ReportedRun[] = [];
  for (const { name, ...train } of VARIANTS) {
    const config: RunConfig = { ...context.run, train: { ...context.run.train, ...train } };
    try {
      runs.push({ name, config, summary: await measure(name, config, context) });
    } catch (error) {
      if (!(error instanceof RankFailedError && error.outOfMemory)) throw error;
      runs.push({ name, config, outOfMemory: error.message });
    }
  }
  const memory = runs.flatMap(({ name, summary }) => summary ? [`${name}\n${formatMemory(summary)}`] : []);
  return { text: [describeRun(context.run), formatVariants(runs), ...memory].join("\n\n"), runs };
}

async function verifyAgainstSingle(context: PlanContext): Promise<Outcome> {
  const { run } = context;
  const single: RunConfig = { ...run, strategy: "single", ranks: 1, mesh: undefined, memoryBudgetBytes: undefined };
  const folder = await Deno.makeTempDir({ prefix: "mst-verify-" });
  try {
    const [ours, theirs] = [`${folder}/ours`, `${folder}/single`];
    await Promise.all([ours, theirs].map((each) => Deno.mkdir(each)));
    const summary = await measure(run.strategy, run, context, ours);
    const singleSummary = await measure("single", single, context, theirs);
    const comparisons = await compareCaptures({ folder: ours, losses: summary.losses }, {
      folder: theirs,
      losses: singleSummary.losses,
    });
    return {
      text: `${formatRun(run, summary)}\n\nagainst one rank\n${formatComparisons(comparisons)}`,
      runs: [{ name: run.strategy, config: run, summary }, { name: "single", config: single, summary: singleSummary }],
      comparisons,
    };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function measure(
  name: string,
  run: RunConfig,
  { gpus, host, signal }: PlanContext,
  captureFolder?: string,
): Promise<RunSummary> {
  return summarize(run, await launchShown(name, { job: { run, captureFolder }, gpus, host, signal }));
}

function helpText(): string {
  return formatHelp({
    usage: "deno task bench [--strategy=ring] [flags]",
    summary: "Trains a Llama-shaped transformer on text, its sequence spread over GPU processes, and measures it.",
    examples: [
      ["deno task bench --strategy=ring", "two ranks, a model and a length that suit this machine"],
      ["deno task bench --strategy=ring --ranks=4 --model=125m --seq=16384", "more ranks, a longer sequence"],
      ["deno task bench --strategy=single --compare --json=compare.json", "what mini-sequences save, on one rank"],
      ["deno task bench --strategy=ring --ranks=3 --verify", "check that three ranks compute what one does"],
      ["deno task bench --model=path/to/llama --data=book.txt --seq=4096", "your own model and text"],
      ["deno task bench --rendezvous=ws://10.0.0.1:29500 --ranks=4 --rank=0-1", "this host's part of four ranks"],
      ["deno task bench --dim=256 --layers=8 --heads=8 --profile", "a shape of your own, with time per kernel"],
    ],
    exitCodes: EXIT_CODES_TEXT,
  }, BENCH_FLAGS);
}
