/**
 * What a thread and the worker that holds its process group tell each other.
 *
 * @module
 */
import type { ConnectOptions } from "./connect_options.ts";
import { PeerError, type PeerFailure, type PeerOperation } from "./errors.ts";
import type { ProcessGroup, TransportStats } from "./process_group.ts";

/** Calls of a process group that the worker carries out. */
export type WorkerMethod =
  | "send"
  | "recv"
  | "allGather"
  | "reduceScatter"
  | "allReduce"
  | "allToAll"
  | "broadcast"
  | "barrier";

/** The callbacks among the options, which stay behind: they are called with a text each. */
export type ConnectCallback = {
  [Name in keyof ConnectOptions]-?: NonNullable<ConnectOptions[Name]> extends (text: string) => void ? Name : never;
}[keyof ConnectOptions];

/** What the worker is told. */
export type ToWorker =
  | {
    readonly type: "connect";
    readonly options: Omit<ConnectOptions, ConnectCallback>;
    readonly callbacks: readonly ConnectCallback[];
  }
  | { readonly type: "step"; readonly step: number }
  | WorkerCall
  | { readonly type: "abort"; readonly reason: SentError }
  | { readonly type: "close" };

/** A call; the memory of arrays in it is shared. */
export type WorkerCall = {
  readonly [Method in WorkerMethod]: {
    readonly type: "call";
    readonly id: number;
    readonly method: Method;
    readonly args: Parameters<ProcessGroup[Method]>;
  };
}[WorkerMethod];

/** What the worker tells. */
export type FromWorker =
  | { readonly type: "told"; readonly callback: ConnectCallback; readonly text: string }
  | { readonly type: "connected" }
  | { readonly type: "refused"; readonly error: SentError }
  | { readonly type: "done"; readonly id: number; readonly result: unknown; readonly counts: TrafficCounts }
  | { readonly type: "failed"; readonly id: number; readonly error: SentError; readonly counts: TrafficCounts }
  | { readonly type: "ended"; readonly error: SentError }
  | { readonly type: "closed" };

/** The counts of a group's exchanges that grow in the worker. */
export type TrafficCounts = Omit<TransportStats, "collectives">;

/** An error as it crosses from one thread to another, where its class would be lost. */
export interface SentError {
  readonly name: string;
  readonly message: string;
  readonly stack?: string;
  /** What makes a {@linkcode PeerError}. */
  readonly peer?: { readonly failure: PeerFailure; readonly operation: PeerOperation };
}

/** Takes an error apart. */
export function sendableError(error: unknown): SentError {
  if (!(error instanceof Error)) return { name: "Error", message: String(error) };
  const { name, message, stack } = error;
  if (!(error instanceof PeerError)) return { name, message, stack };
  return { name, message, stack, peer: { failure: error.failure, operation: error.stopped } };
}

/** Puts an error together again: of its class if it is of the transport or the language, else one of its name. */
export function receivedError({ name, message, stack, peer }: SentError): Error {
  if (peer) return new PeerError(peer.failure, peer.operation);
  const error = name === "RangeError"
    ? new RangeError(message)
    : name === "TypeError"
    ? new TypeError(message)
    : Object.assign(new Error(message), { name });
  if (stack !== undefined) error.stack = stack;
  return error;
}
