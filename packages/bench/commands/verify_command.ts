/**
 * `deno task verify`: compares this installation with what transformers computed.
 *
 * @module
 */

import { parseTrainConfig, readModelWeights } from "@mst/core";
import { VERIFY_FLAGS, type VerifyFlags } from "../cli/flags.ts";
import { formatHelp } from "../cli/help.ts";
import { parseFlags } from "../cli/parse_flags.ts";
import { UsageError } from "../cli/usage_error.ts";
import { DEFAULT_TIMEOUT_SECONDS } from "../config/defaults.ts";
import type { RunConfig } from "../config/run_config.ts";
import { checkWritable, resolveChunks, resolveDevice, resolveRanks, resolveTopology } from "../config/run_options.ts";
import { type Hardware, probeHardware } from "../hardware/probe.ts";
import { formatComparisons } from "../report/comparison_report.ts";
import { RankFailedError } from "../launcher/rank_failure.ts";
import { describeEnvironment } from "../report/environment.ts";
import { writeJson } from "../report/json_file.ts";
import { describeRun } from "../report/run_report.ts";
import { strategyEntry } from "../scenario.ts";
import { GOLDEN_ADAMW, type GoldenCase, readGoldenCase } from "../verify/golden_case.ts";
import { type Comparison, TOLERANCES } from "../verify/tolerance.ts";
import { compareWithGolden } from "../verify/verify_case.ts";
import { noteMissingDriver } from "./bench_command.ts";
import { EXIT, EXIT_CODES_TEXT, printError } from "./command.ts";
import { launchShown } from "./launch_shown.ts";

/** What became of a folder. */
interface VerifiedFolder {
  readonly folder: string;
  readonly deviceName?: string;
  readonly config?: RunConfig;
  readonly comparisons?: readonly Comparison[];
  /** Why it could not be read. */
  readonly unreadable?: string;
  /** Why its run failed. */
  readonly failure?: string;
}

/** Runs `deno task verify` with these arguments. */
export async function verifyCommand(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { flags, operands: folders } = parseFlags(args, VERIFY_FLAGS);
  if (flags.help) {
    console.log(helpText());
    return EXIT.ok;
  }
  if (folders.length === 0) {
    throw new UsageError("Cannot verify without a folder: name one or more of the golden format");
  }
  resolveRanks(flags, []);
  await checkWritable(flags.json);
  const cases = await Promise.all(folders.map(readCase));
  const readable = cases.some(({ golden }) => golden);
  const hardware = await probeHardware(readable ? flags.device : "reference");
  signal.throwIfAborted();
  noteMissingDriver(hardware);
  const results: VerifiedFolder[] = [];
  for (const { folder, golden, unreadable } of cases) {
    const result = golden ? await verifyFolder(golden, flags, hardware, signal) : { folder, unreadable };
    results.push(result);
    if (result.unreadable) console.error(`error: Cannot verify ${folder}: ${result.unreadable}`);
    else if (result.comparisons) {
      console.log(`\n${folder} (${describeRun(result.config!)}; ${result.deviceName})\n${formatResult(result)}`);
    }
  }
  const exceeded = results.filter(({ failure, comparisons }) => failure || comparisons?.some(({ passed }) => !passed))
    .length;
  const unread = results.filter(({ unreadable }) => unreadable !== undefined).length;
  console.log(`\n${results.length - exceeded - unread} passed, ${exceeded} failed, ${unread} not verified`);
  if (flags.json !== undefined) {
    const environment = await describeEnvironment("verify", hardware.gpus);
    await writeJson(flags.json, {
      format: "mst-verify-1",
      ...environment,
      tolerances: TOLERANCES[flags.precision ?? "f32"],
      folders: results,
    });
  }
  if (exceeded > 0) return EXIT.failed;
  return unread > 0 ? EXIT.usage : EXIT.ok;
}

/** Reads a folder whole, weights included, so that what is wrong with it shows before any process starts. */
async function readCase(folder: string): Promise<{ folder: string; golden?: GoldenCase; unreadable?: string }> {
  try {
    const golden = await readGoldenCase(folder);
    await readModelWeights(folder, golden.model);
    return { folder, golden };
  } catch (error) {
    const { name, message } = error as Error;
    return { folder, unreadable: `${name}: ${message}` };
  }
}

async function verifyFolder(
  golden: GoldenCase,
  flags: VerifyFlags,
  hardware: Hardware,
  signal: AbortSignal,
): Promise<VerifiedFolder> {
  const { folder, model, inputIds, losses } = golden;
  const run: RunConfig = {
    ...resolveTopology(flags, hardware.gpus, model),
    device: resolveDevice(flags.device, hardware),
    modelName: folder,
    model,
    weightsFolder: folder,
    train: parseTrainConfig({
      ...GOLDEN_ADAMW,
      ...resolveChunks(flags),
      seqTokens: inputIds.length,
      steps: losses.length,
      recompute: flags.recompute,
      precision: flags.precision,
      shard: flags.shard,
      offload: flags.offload,
      deviceCheckpoints: flags["device-checkpoints"],
    }),
    warmup: 0,
    profile: false,
    timeoutSeconds: flags.timeout ?? DEFAULT_TIMEOUT_SECONDS,
  };
  try {
    strategyEntry(run.strategy).check(run, run.train, model);
  } catch (error) {
    return { folder, unreadable: `${(error as Error).name}: ${(error as Error).message}` };
  }
  const captureFolder = await Deno.makeTempDir({ prefix: "mst-verify-" });
  try {
    const job = { run, goldenFolder: folder, captureFolder };
    const ranks = await launchShown(folder, { job, gpus: hardware.gpus, signal });
    const stepLosses = ranks[0].steps.map(({ loss }) => loss);
    const capture = { folder: captureFolder, ranks: run.ranks, losses: stepLosses };
    const comparisons = await compareWithGolden(golden, capture, TOLERANCES[run.train.precision]);
    return { folder, deviceName: ranks[0].result.deviceName, config: run, comparisons };
  } catch (error) {
    if (!(error instanceof RankFailedError)) throw error;
    printError(error);
    return { folder, config: run, failure: error.message };
  } finally {
    await Deno.remove(captureFolder, { recursive: true });
  }
}

function formatResult({ comparisons }: VerifiedFolder): string {
  return formatComparisons(comparisons!);
}

function helpText(): string {
  const tolerances = Object.entries(TOLERANCES).flatMap(([precision, quantities]) =>
    Object.entries(quantities).map(([name, { ofLargest, relative, reason }]) => {
      const largest = ofLargest > 0 ? `${ofLargest} of the largest number plus ` : "";
      return `  ${precision}, ${name}: ${largest}${relative} relative; ${reason}`;
    })
  );
  return [
    formatHelp({
      usage: "deno task verify DIR… [flags]",
      summary:
        "Compares loss, logits, every gradient and the losses of AdamW steps with what transformers computed.\n" +
        "A folder holds config.json, model.safetensors and golden.safetensors.",
      examples: [
        ["deno task verify tests/golden/llama3", "two ranks on what this machine computes on"],
        ["deno task verify tests/golden/llama* --strategy=single --device=reference", "one rank, in plain TypeScript"],
        ["deno task verify DIR --ranks=4 --mini-sequence=7 --recompute=none --json=verify.json", "as you train"],
      ],
      exitCodes: EXIT_CODES_TEXT,
    }, VERIFY_FLAGS),
    "",
    "Tolerances:",
    ...tolerances,
  ].join("\n");
}
