/**
 * `deno task bench`: trains, measures and reports.
 *
 * @module
 */

import { checkBenchFlags, readBenchInputs, resolveBenchPlan } from "../config/bench_plan.ts";
import { checkSaveFolder } from "../config/checkpoint_plan.ts";
import { readHostOptions } from "../config/host_options.ts";
import type { BenchPlan } from "../config/run_config.ts";
import { runSettings } from "../config/run_settings.ts";
import { BENCH_FLAGS } from "../cli/flags.ts";
import { formatHelp } from "../cli/help.ts";
import { parseFlags } from "../cli/parse_flags.ts";
import { UsageError } from "../cli/usage_error.ts";
import { DRIVER_HINT, type Hardware, probeHardware } from "../hardware/probe.ts";
import { compareStrategies } from "../modes/compare_strategies.ts";
import { compareVariants } from "../modes/compare_variants.ts";
import { findLongest } from "../modes/longest.ts";
import type { ModeContext, Outcome } from "../modes/mode.ts";
import { train } from "../modes/train.ts";
import { verifyAgainstSingle } from "../modes/verify_single.ts";
import { describeEnvironment } from "../report/environment.ts";
import { writeJson } from "../report/json_file.ts";
import { describePlan } from "../report/run_report.ts";
import { EXIT, EXIT_CODES_TEXT } from "./command.ts";

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
  const hardware = await probeHardware(flags.device);
  signal.throwIfAborted();
  const plan = resolveBenchPlan(flags, inputs, hardware);
  if (flags["print-config"]) {
    console.log(JSON.stringify({ ...plan, hardware }, undefined, 2));
    return EXIT.ok;
  }
  await checkSaveFolder(flags, plan.run.model);
  noteMissingDriver(hardware);
  console.error(describePlan(plan));
  const host = hostOptions && {
    ...hostOptions,
    meeting: { ...hostOptions.meeting, settings: await runSettings(plan.run, inputs.text) },
  };
  const { text, runs, details, failed } = await carryOut(plan, { gpus: hardware.gpus, host, signal });
  console.log(`\n${text}`);
  if (plan.jsonFile !== undefined) {
    const environment = await describeEnvironment("bench", hardware.gpus);
    await writeJson(plan.jsonFile, { format: "mst-bench-1", ...environment, mode: plan.mode, runs, ...details });
  }
  return failed ? EXIT.failed : EXIT.ok;
}

/** Says in a line that there is no GPU driver, and how to get one. */
export function noteMissingDriver({ problem, dawn }: Hardware): void {
  if (problem === undefined || dawn?.adapter?.subgroupMatrix) return;
  console.error(`${problem}: computing on the reference backend in plain TypeScript; ${DRIVER_HINT.webgpu}`);
}

async function carryOut({ mode, run, runs, maxTokens }: BenchPlan, context: ModeContext): Promise<Outcome> {
  switch (mode) {
    case "train":
      return await train(run, context);
    case "compare":
      return await compareVariants(run, context);
    case "compare-strategies":
      return await compareStrategies(runs, context);
    case "verify":
      return await verifyAgainstSingle(run, context);
    case "longest":
      return await findLongest(run, maxTokens, context);
  }
}

function helpText(): string {
  return formatHelp({
    usage: "deno task bench [--strategy=ring] [flags]",
    summary: "Trains a Llama-shaped transformer on text, its sequence spread over GPU processes, and measures it.",
    examples: [
      ["deno task bench --strategy=ring", "two ranks, a model and a length that suit this machine"],
      ["deno task bench --strategy=ring --ranks=4 --model=125m --seq=16384", "more ranks, a longer sequence"],
      ["deno task bench --strategy=single --compare --json=compare.json", "what mini-sequences save, on one rank"],
      ["deno task bench --compare-strategies --ranks=4", "every strategy beside one rank, at two lengths"],
      ["deno task bench --longest --memory-budget=64MiB --ranks=4", "the longest sequence that fits"],
      ["deno task bench --strategy=ring --ranks=3 --verify", "check that three ranks compute what one does"],
      ["deno task bench --model=path/to/llama --data=book.txt --seq=4096", "your own model and text"],
      [
        "deno task bench --strategy=ring --ranks=4 --save=checkpoint --save-every=100",
        "save on the way and at the end",
      ],
      ["deno task bench --strategy=ulysses --ranks=2 --resume=checkpoint", "go on from there, on other ranks"],
      ["deno task bench --rendezvous=ws://10.0.0.1:29500 --ranks=4 --rank=0-1", "this host's part of four ranks"],
      ["deno task bench --dim=256 --layers=8 --heads=8 --profile", "a shape of your own, with time per kernel"],
    ],
    exitCodes: EXIT_CODES_TEXT,
  }, BENCH_FLAGS);
}
