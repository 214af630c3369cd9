/**
 * Strategies side by side.
 *
 * @module
 */

import { largestRelativeDifference } from "./comparison_report.ts";
import type { ReportedRun } from "./reported_run.ts";
import { formatTable } from "./table.ts";
import { formatBytes, formatCount, formatError, formatMs, formatRate } from "./units.ts";

/** What a strategy came to at a length. */
export interface StrategyFigures {
  /** What it is called. */
  readonly name: string;
  /** Tokens of a sequence. */
  readonly seqTokens: number;
  /** Largest relative difference of the loss of any step to one rank; absent where one rank lacks the memory. */
  readonly lossDifference?: number;
  /** Median over the measured steps. */
  readonly tokensPerSecond: number;
  /** Median of the time that ranks waited for exchange, in milliseconds a step. */
  readonly exposedCommunicationMs: number;
  /** Payload bytes that all ranks together sent a step. */
  readonly bytesSentPerStep: number;
  /** Largest peak of device bytes of any rank. */
  readonly peakDeviceBytes: number;
}

/** Figures of every run that came to its end, next to the run on one rank of its length. */
export function strategyFigures(runs: readonly ReportedRun[]): StrategyFigures[] {
  return runs.flatMap(({ name, config, summary }) => {
    if (!summary) return [];
    const { seqTokens } = config.train;
    const control = runs.find((run) => run.config.ranks === 1 && run.config.train.seqTokens === seqTokens)?.summary;
    return [{
      name,
      seqTokens,
      lossDifference: control && largestRelativeDifference(summary.losses, control.losses),
      tokensPerSecond: summary.tokensPerSecond.median,
      exposedCommunicationMs: summary.exposedCommunicationMs,
      bytesSentPerStep: summary.ranks.reduce((sum, { bytesSentPerStep }) => sum + bytesSentPerStep, 0),
      peakDeviceBytes: summary.peakDeviceBytes,
    }];
  });
}

/** One table of all runs; those that did not come to their end are rows, too, and say why below it. */
export function formatStrategies(runs: readonly ReportedRun[]): string {
  const figures = strategyFigures(runs);
  const head = [
    "strategy",
    "tokens",
    "loss differs by (relative)",
    "tokens/s",
    "exposed communication",
    "sent a step",
    "peak a rank",
  ];
  const rows = runs.map(({ name, config, unsupported, outOfMemory }) => {
    const { seqTokens } = config.train;
    const start = [name, formatCount(seqTokens)];
    const found = figures.find((each) => each.name === name && each.seqTokens === seqTokens);
    if (!found) return [...start, unsupported ? "cannot" : outOfMemory ? "out of memory" : "", "", "", "", ""];
    const { lossDifference, tokensPerSecond, exposedCommunicationMs, bytesSentPerStep, peakDeviceBytes } = found;
    return [
      ...start,
      lossDifference === undefined ? "unknown" : formatError(lossDifference),
      formatRate(tokensPerSecond),
      formatMs(exposedCommunicationMs),
      formatBytes(bytesSentPerStep),
      formatBytes(peakDeviceBytes),
    ];
  });
  const reasons = runs.flatMap(({ name, config, unsupported, outOfMemory }) => {
    const reason = unsupported ?? outOfMemory;
    return reason === undefined ? [] : [`${name}, ${formatCount(config.train.seqTokens)} tokens: ${reason}`];
  });
  return [formatTable(head, rows), ...reasons.length > 0 ? [reasons.join("\n")] : []].join("\n\n");
}
