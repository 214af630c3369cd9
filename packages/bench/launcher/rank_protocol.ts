/**
 * What launcher and ranks tell each other: one line of JSON each. Orders go to a rank's stdin, events come from its stdout.
 *
 * @module
 */

import type {
  BytesByTag,
  KernelTime,
  LinkProfile,
  OffloadedBytes,
  PeakMemory,
  PeerErrorKind,
  StepReport,
  TlsIdentity,
} from "@mst/core";
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

/** How the ranks that one command starts meet those of the commands on other hosts. */
export interface HostMeeting {
  /** Address of rank 0, with its port. */
  readonly rendezvous: string;
  /** Address of this machine to listen at; the one that leads to rank 0 when left out. */
  readonly bind?: string;
  /** Certificate of a rendezvous by wss. */
  readonly tls?: TlsIdentity;
  /** What the commands have to agree on. */
  readonly settings: Readonly<Record<string, string>>;
}

/** The ranks that this command starts of a run over several hosts. */
export interface HostShare {
  /** Their numbers, ascending. */
  readonly ranks: readonly number[];
  /** Secret of the run, the same for all commands. */
  readonly token: string;
  /** How they meet the others. */
  readonly meeting: HostMeeting;
}

/** First line to a rank. */
export interface RankOrder {
  /** Number of the rank. */
  readonly rank: number;
  /** Secret of the run. */
  readonly token: string;
  /** What to do. */
  readonly job: RankJob;
  /** How to meet the others, where other commands start some of them. */
  readonly meeting?: HostMeeting;
}

/** Second line to a rank above 0, unless its order says how to meet the others. */
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
  /** Mini-sequences of the MLP and of the LM head. */
  readonly miniSequences: { readonly mlp: number; readonly head: number };
  /** Peak of device bytes by the ledger. */
  readonly peak: PeakMemory;
  /** Highest device bytes of each tag by itself. */
  readonly highest: BytesByTag;
  /** Device bytes live after the last step. */
  readonly live: BytesByTag;
  /** Bytes reserved from the device at most. */
  readonly reservedBytes: number;
  /** Bytes of what is kept on the host instead of the device. */
  readonly offloaded: OffloadedBytes;
  /** Most resident memory of the process. */
  readonly hostPeakBytes: number;
  /** Time per kernel over the measured steps; empty without `--profile`. */
  readonly profile: readonly KernelTime[];
  /** Its links to higher ranks; none without `--profile`. */
  readonly links: readonly LinkProfile[];
}

/** What one rank did. */
export interface LaunchedRank {
  /** Reports of its steps. */
  readonly steps: readonly StepReport[];
  /** What it used. */
  readonly result: RankResult;
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

/** A rank waits for ranks that other commands start. */
export interface WaitingEvent {
  /** Which event it is. */
  readonly type: "waiting";
  /** What it waits for, for a person to read. */
  readonly what: string;
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

/** A checkpoint is whole. */
export interface SavedEvent {
  /** Which event it is. */
  readonly type: "saved";
  /** The step that it was saved after. */
  readonly step: number;
}

/** A rank has taken all its steps. */
export interface DoneEvent {
  /** Which event it is. */
  readonly type: "done";
  /** What it used. */
  readonly result: RankResult;
  /** What all ranks did, by rank, where other commands have started some of them. */
  readonly all?: readonly LaunchedRank[];
}

/** A rank ends early. */
export interface FailedEvent {
  /** Which event it is. */
  readonly type: "failed";
  /** Why. */
  readonly failure: RankFailure;
}

/** What a rank tells the launcher. */
export type RankEvent = ListeningEvent | WaitingEvent | ReadyEvent | StepEvent | SavedEvent | DoneEvent | FailedEvent;

/** The event in a line of a rank's stdout; undefined for anything else, such as what a driver prints. */
export function parseRankEvent(line: string): RankEvent | undefined {
  if (!line.startsWith('{"type":')) return undefined;
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
