/**
 * Reports of runs side by side.
 *
 * @module
 */

import type { RunSummary } from "../measure/summary.ts";
import type { Comparison } from "../verify/tolerance.ts";
import { formatTable } from "./table.ts";
import { formatBytes, formatError, formatMs, formatRate } from "./units.ts";

/** One of the runs of `--compare`. */
export interface Variant {
  /** What it is called. */
  readonly name: string;
  /** What it came to; absent when memory was not enough. */
  readonly summary?: RunSummary;
  /** What there was no memory for. */
  readonly outOfMemory?: string;
}

/** What `--compare` says of a variant next to the first that ran. */
export interface VariantRatios {
  /** What it is called. */
  readonly name: string;
  /** Its peak of device bytes over that of the base. */
  readonly peakMemory: number;
  /** Its tokens per second over those of the base. */
  readonly tokensPerSecond: number;
  /** Largest relative difference of the loss of any step. */
  readonly lossDifference: number;
}

/** Ratios of every variant to the first that ran; none when none ran. */
export function variantRatios(variants: readonly Variant[]): VariantRatios[] {
  const base = variants.find(({ summary }) => summary)?.summary;
  return variants.flatMap(({ name, summary }) =>
    summary && base
      ? [{
        name,
        peakMemory: summary.peakDeviceBytes / base.peakDeviceBytes,
        tokensPerSecond: summary.tokensPerSecond.median / base.tokensPerSecond.median,
        lossDifference: largestRelativeDifference(summary.losses, base.losses),
      }]
      : []
  );
}

/** The table of `--compare`. */
export function formatVariants(variants: readonly Variant[]): string {
  const ratios = new Map(variantRatios(variants).map((each) => [each.name, each]));
  const rows = variants.map(({ name, summary }) => {
    if (!summary) return [name, "out of memory", "", "", "", "", "", ""];
    const { peakMemory, tokensPerSecond, lossDifference } = ratios.get(name)!;
    return [
      name,
      formatRate(summary.tokensPerSecond.median),
      `${tokensPerSecond.toFixed(3)} x`,
      formatMs(summary.stepMs.median),
      formatBytes(summary.peakDeviceBytes),
      `${peakMemory.toFixed(3)} x`,
      summary.losses.at(-1)!.toFixed(5),
      formatError(lossDifference),
    ];
  });
  const head = [
    "run",
    "tokens/s",
    "of the first",
    "step",
    "peak a rank",
    "of the first",
    "last loss",
    "loss differs by (relative)",
  ];
  const reasons = variants.flatMap(({ name, outOfMemory }) => outOfMemory ? [`${name}: ${outOfMemory}`] : []);
  return [formatTable(head, rows), ...reasons.length > 0 ? [reasons.join("\n")] : []].join("\n\n");
}

/** The table of comparisons with expected numbers. */
export function formatComparisons(comparisons: readonly Comparison[]): string {
  return formatTable(
    ["quantity", "absolute error", "relative error", "of the tolerance", ""],
    comparisons.map(({ name, absoluteError, relativeError, used, passed }) => [
      name,
      formatError(absoluteError),
      formatError(relativeError),
      Number.isFinite(used) ? used.toFixed(3) : "not finite",
      passed ? "ok" : "EXCEEDED",
    ]),
  );
}

/** Largest difference of two series, each relative to the number of the base. */
export function largestRelativeDifference(values: readonly number[], base: readonly number[]): number {
  return Math.max(...values.map((value, i) => Math.abs(value - base[i]) / Math.abs(base[i])));
}
