/**
 * What launcher and ranks tell each other: one line of JSON each. Orders go to a rank's stdin, events come from its stdout.
 *
 * @module
 */

import type { BytesByTag, KernelTime, PeakMemory, PeerErrorKind, StepReport } from "@mst/core";
import type { RunConfig } from "../config/run_config.ts";

/** What the ranks of one launch do. */
export interface RankJob {
  /** How to train. */
  readonly run: RunConfig;
  /** Folder of the golden format whose sequence is trained on, instead of text. */
  readonly goldenFolder?: string;
  /** Folder for loss and gradients (and logits of a golden sequence) before the first step, as `rank-N.safetensors`. */
  readonly captureFolder?: string;
}

/** First line to a rank. */
export interface RankOrder {
  /** Number of the rank. */
  readonly rank: number;
  /** Secret of the run. */
  readonly token: string;
  /** What to do. */
  readonly job: RankJob;
}

/** Second line to a rank above 0. */
export interface RendezvousOrder {
  /** Where rank 0 listens. */
  readonly rendezvous: string;
}

/** What a rank has used and done, told at the end. */
export interface RankResult {
  /** Name of its device. */
  readonly deviceName: string;
  /** Whether its device computes on the CPU. */
  readonly isSoftware: boolean;
  /** Rows of a micro-batch on this rank. */
  readonly localTokens: number;
  /** Peak of device bytes by the ledger. */
  readonly peak: PeakMemory;
  /** Highest device bytes of each tag by itself. */
  readonly highest: BytesByTag;
  /** Device bytes live after the last step. */
  readonly live: BytesByTag;
  /** Bytes reserved from the device at most. */
  readonly reservedBytes: number;
  /** Most resident memory of the process. */
  readonly hostPeakBytes: number;
  /** Time per kernel over the measured steps; empty without `--profile`. */
  readonly profile: readonly KernelTime[];
}

/** Why a rank ends early. */
export interface RankFailure {
  /** Class of the error. */
  readonly name: string;
  /** Its message. */
  readonly message: string;
  /** Whether memory, of device or host, was not enough. */
  readonly outOfMemory: boolean;
  /** For a failure that another rank caused: which, and what was seen of it. */
  readonly peer?: { readonly origin: number; readonly kind: PeerErrorKind };
}

/** Rank 0 listens for the others. */
export interface ListeningEvent {
  /** Which event it is. */
  readonly type: "listening";
  /** Its address. */
  readonly url: string;
}

/** A rank has opened its device. */
export interface ReadyEvent {
  /** Which event it is. */
  readonly type: "ready";
  /** Name of the device. */
  readonly deviceName: string;
  /** Whether it computes on the CPU. */
  readonly isSoftware: boolean;
}

/** A rank has taken a step. */
export interface StepEvent {
  /** Which event it is. */
  readonly type: "step";
  /** What the step did. */
  readonly report: StepReport;
  /** Peak of device bytes so far. */
  readonly peakBytes: number;
}

/** A rank has taken all its steps. */
export interface DoneEvent {
  /** Which event it is. */
  readonly type: "done";
  /** What it used. */
  readonly result: RankResult;
}

/** A rank ends early. */
export interface FailedEvent {
  /** Which event it is. */
  readonly type: "failed";
  /** Why. */
  readonly failure: RankFailure;
}

/** What a rank tells the launcher. */
export type RankEvent = ListeningEvent | ReadyEvent | StepEvent | DoneEvent | FailedEvent;

/** The event in a line of a rank's stdout; undefined for anything else, such as what a driver prints. */
export function parseRankEvent(line: string): RankEvent | undefined {
  if (!line.startsWith('{"type":')) return undefined;
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
