/**
 * Reading the bench's JSON report in tests.
 *
 * @module
 */

import type { RunConfig, RunSummary } from "@mst/bench";
import { assertEquals } from "@std/assert";
import { runCommand } from "./processes.ts";
import { withTempDir } from "./temp_dir.ts";

/** What tests look at in the report of `deno task bench`. */
export interface BenchReport {
  /** Version of the format. */
  readonly format: string;
  /** When it was made. */
  readonly date: string;
  /** Command line. */
  readonly command: string;
  /** Versions by program. */
  readonly versions: Record<string, string>;
  /** Machine. */
  readonly host: Record<string, unknown>;
  /** The runs. */
  readonly runs: readonly {
    readonly name: string;
    readonly config: RunConfig;
    readonly summary: RunSummary;
    readonly outOfMemory?: string;
    readonly unsupported?: string;
  }[];
  /** With `--compare`. */
  readonly ratios?: readonly { name: string; peakMemory: number; tokensPerSecond: number; lossDifference: number }[];
  /** With `--compare-strategies`. */
  readonly strategies?: readonly {
    name: string;
    seqTokens: number;
    lossDifference: number;
    bytesSentPerStep: number;
    peakDeviceBytes: number;
  }[];
  /** With `--longest`. */
  readonly longest?: {
    seqTokens: number;
    exceededTokens: number;
    budgetBytes: number;
    unitTokens: number;
    peakBytes: readonly number[];
  };
  /** With `--verify`. */
  readonly comparisons?: readonly { name: string; passed: boolean; used: number }[];
}

/** A small model that trains a step in a moment. */
export const SMALL = "--layers=2 --dim=32 --heads=4 --kv-heads=2 --ffn=48 --seq=70 --steps=3".split(" ");

/** Runs the bench to its good end; resolves to its report and what it wrote. */
export async function benchReport(
  args: readonly string[],
): Promise<{ report: BenchReport; stdout: string; stderr: string }> {
  let report: BenchReport | undefined;
  let output = { stdout: "", stderr: "" };
  await withTempDir(async (folder) => {
    const json = `${folder}/report.json`;
    const { code, ...written } = await runCommand("main.ts", [...args, `--json=${json}`]);
    assertEquals(code, 0, written.stderr);
    output = written;
    report = JSON.parse(await Deno.readTextFile(json));
  });
  return { report: report!, ...output };
}
