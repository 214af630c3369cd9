/**
 * What can go wrong between ranks, as typed errors.
 *
 * @module
 */

/**
 * Why a peer failed: `closed` its connection ended without a goodbye (its process died), `timeout` it sent no byte for the
 * timeout, `protocol` it sent something that is not allowed, `aborted` it ended the run, `unauthorized` it refused this
 * rank.
 */
export type PeerErrorKind = "closed" | "timeout" | "protocol" | "aborted" | "unauthorized";

/** One peer's failure, before it is tied to the operation that it stops. */
export interface PeerFailure {
  /** Rank on the other side of the link where the failure was noticed. */
  readonly peer: number;
  /** Why it failed. */
  readonly kind: PeerErrorKind;
  /** What was seen and what was wanted. */
  readonly detail: string;
  /** Rank that the first error of the run is about: `peer`, unless `peer` passes on what it learnt of another rank. */
  readonly origin: number;
  /** What the peer did, in the past tense; by default what `kind` stands for. */
  readonly happened?: string;
}

/** The operation that a failure stops. */
export interface PeerOperation {
  /** For example `recv "ring k,v round 1"`. */
  readonly name: string;
  /** Rank that the operation exchanges with, where there is one. */
  readonly peer?: number;
  /** Training step. */
  readonly step: number;
}

/**
 * A peer died, stalled, broke the protocol, ended the run or refused this rank. The message names the peer, the operation
 * and the step:
 *
 * `Rank 2 stopped answering during recv "ring k,v round 1" at step 3: no bytes for 60 s, wanted 4194304 more`
 */
export class PeerError extends Error {
  /** Name of the class. */
  override readonly name = "PeerError";
  /** Rank on the other side of the link where the failure was noticed. */
  readonly peer: number;
  /** Why it failed. */
  readonly kind: PeerErrorKind;
  /** Rank that the first error of the run is about. */
  readonly origin: number;
  /** The operation that was stopped. */
  readonly operation: string;
  /** Training step. */
  readonly step: number;
  /** The failure by itself. */
  readonly failure: PeerFailure;
  /** The operation with the rank that it exchanges with. */
  readonly stopped: PeerOperation;

  /** Ties a failure to the operation that it stops. */
  constructor(failure: PeerFailure, operation: PeerOperation) {
    super(describe(failure, operation));
    this.peer = failure.peer;
    this.kind = failure.kind;
    this.origin = failure.origin;
    this.operation = operation.name;
    this.step = operation.step;
    this.failure = failure;
    this.stopped = operation;
  }
}

/** Bytes that are no frame of the protocol, or a frame where another one had to come. */
export class FrameError extends Error {
  /** Name of the class. */
  override readonly name = "FrameError";
}

const WHAT_HAPPENED: Record<PeerErrorKind, string> = {
  closed: "left",
  timeout: "stopped answering",
  protocol: "broke the protocol",
  aborted: "aborted the run",
  unauthorized: "refused this rank",
};

function describe({ peer, kind, detail, happened }: PeerFailure, operation: PeerOperation): string {
  const other = operation.peer === undefined || operation.peer === peer ? "" : ` with rank ${operation.peer}`;
  const what = happened ?? WHAT_HAPPENED[kind];
  return `Rank ${peer} ${what} during ${operation.name}${other} at step ${operation.step}: ${detail}`;
}
