/**
 * What a run's steps come to: speed, where the time went, memory and bytes.
 *
 * @module
 */

import type { KernelTime, LinkProfile, StepReport } from "@mst/core";
import { type RunConfig, stepTokens } from "../config/run_config.ts";
import type { LaunchedRank, RankResult } from "../launcher/rank_protocol.ts";

/** Middle and ends of some numbers. */
export interface Spread {
  /** Median. */
  readonly median: number;
  /** Lowest. */
  readonly min: number;
  /** Highest. */
  readonly max: number;
}

/** What one rank used, without its part of the profile. */
export interface RankSummary extends Omit<RankResult, "profile" | "links"> {
  /** Number of the rank. */
  readonly rank: number;
  /** Payload bytes that it sent per step. */
  readonly bytesSentPerStep: number;
}

/** What a run comes to. Times are of the measured steps, in milliseconds, averaged over ranks. */
export interface RunSummary {
  /** Name of the device of rank 0. */
  readonly deviceName: string;
  /** Loss of every step, also of the first ones. */
  readonly losses: readonly number[];
  /** Global gradient norm of every step. */
  readonly gradNorms: readonly number[];
  /** Steps whose gradients were not finite, so that weights stayed as they were. */
  readonly skippedSteps: number;
  /** Factor on the loss of the last step, where it is scaled. */
  readonly lossScale?: number;
  /** Steps that were measured. */
  readonly measuredSteps: number;
  /** Documents in the sequences of a measured step, on average. */
  readonly documentsPerStep: number;
  /** Tokens of the whole run per second. */
  readonly tokensPerSecond: Spread;
  /** A step, by its slowest rank. */
  readonly stepMs: Spread;
  /** Median of forward and backward. */
  readonly computeMs: number;
  /** Median of the time that ranks waited for exchange. */
  readonly exposedCommunicationMs: number;
  /** Median of clipping and update. */
  readonly optimizerMs: number;
  /** Part of the exchange that ran behind compute, from 0 to 1; absent when nothing was exchanged. */
  readonly communicationHidden?: number;
  /** Largest peak of device bytes of any rank. */
  readonly peakDeviceBytes: number;
  /** What every rank used. */
  readonly ranks: readonly RankSummary[];
  /** Time per kernel on rank 0; absent without `--profile`. */
  readonly profile?: readonly KernelTime[];
  /** Every link between ranks; absent without `--profile`. */
  readonly links?: readonly LinkProfile[];
}

/** Sums up a run. */
export function summarize(run: RunConfig, launched: readonly LaunchedRank[]): RunSummary {
  const measured = launched.map(({ steps }) => steps.slice(run.warmup));
  const slowestMs = measured[0].map((_, step) => Math.max(...measured.map((steps) => steps[step].stepMs)));
  const [{ steps: allSteps, result }] = launched;
  const medianOf = (time: (report: StepReport) => number) =>
    spreadOf(measured[0].map((_, step) => mean(measured.map((steps) => time(steps[step]))))).median;
  const reports = measured.flat();
  const communicationMs = sum(reports.map((report) => report.communicationMs));
  const exposedMs = sum(reports.map((report) => report.exposedCommunicationMs));
  return {
    deviceName: result.deviceName,
    losses: allSteps.map(({ loss }) => loss),
    gradNorms: allSteps.map(({ gradNorm }) => gradNorm),
    skippedSteps: allSteps.filter(({ skipped }) => skipped).length,
    lossScale: allSteps.at(-1)?.lossScale,
    measuredSteps: slowestMs.length,
    documentsPerStep: mean(measured[0].map(({ documents }) => documents)),
    tokensPerSecond: spreadOf(slowestMs.map((ms) => stepTokens(run.train) / ms * 1000)),
    stepMs: spreadOf(slowestMs),
    computeMs: medianOf((report) => report.computeMs),
    exposedCommunicationMs: medianOf((report) => report.exposedCommunicationMs),
    optimizerMs: medianOf((report) => report.optimizerMs),
    ...(communicationMs > 0 && { communicationHidden: 1 - exposedMs / communicationMs }),
    peakDeviceBytes: Math.max(...launched.map(({ result }) => result.peak.totalBytes)),
    ranks: launched.map(({ result: { profile: _profile, links: _links, ...used } }, rank) => ({
      rank,
      ...used,
      bytesSentPerStep: spreadOf(measured[rank].map(({ bytesSent }) => bytesSent)).median,
    })),
    ...(run.profile && { profile: result.profile, links: launched.flatMap(({ result }) => result.links) }),
  };
}

/** Median and ends of some numbers, at least one. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, min: sorted[0], max: sorted[sorted.length - 1] };
}

function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
