/**
 * The contract between the ranks of one run. Strategies and the trainer see a rank, a size and these calls, never a
 * socket. `connectProcessGroup` gives one per process over WebSockets, `createLoopbackGroups` all of them in one process.
 *
 * Legend: R ranks.
 *
 * @module
 */

import type { HostMemory } from "../memory/host_memory.ts";

/** Exact counts of what one rank has exchanged. Bytes are those of the payloads, without frame headers. */
export interface TransportStats {
  /** Payload bytes handed to `send`, by the caller or inside a collective. */
  readonly bytesSent: number;
  /** Payload bytes returned by `recv`, to the caller or inside a collective. */
  readonly bytesReceived: number;
  /** Messages handed to `send`. */
  readonly messagesSent: number;
  /** Collectives called so far, by method name, for example `{ allReduce: 3, barrier: 1 }`. */
  readonly collectives: Readonly<Record<string, number>>;
}

/**
 * The ranks of one run, as one of them sees it.
 *
 * Collectives must be called by all ranks in the same order; they and any number of sends and receives may be in flight
 * at once. Arrays that a call returns start at offset 0 of their own buffer and never alias an argument. They belong to the
 * caller, except that bytes which another rank sent from its `memory` may still lie there: they are to be read alone (or
 * made `writable`), and go back to that rank once the caller has called `release`.
 *
 * The first failure of any peer ends the group: everything pending and every later call is rejected with a
 * {@linkcode PeerError}, the other ranks are told why, and `signal` is aborted.
 */
export interface ProcessGroup {
  /** Number of this rank, from 0 to `size - 1`. */
  readonly rank: number;
  /** Number of ranks R. */
  readonly size: number;
  /** Number of the training step, put into errors; the trainer sets it. */
  step: number;
  /** A snapshot of the counts; `statsSince` gives the difference of two. */
  readonly stats: TransportStats;
  /** Aborted with the {@linkcode PeerError} once the group has failed, so that long work between exchanges can stop. */
  readonly signal: AbortSignal;
  /** What to send from, so that the group need not copy it first. Other ranks may read it after the call has resolved. */
  readonly memory: HostMemory;

  /**
   * Sends one message, which the receiver finds by (sender, label), first in first out per label.
   *
   * Resolves once the link has taken the bytes within its back-pressure bound; the caller must not change `data` before.
   * A message of no bytes is a message.
   *
   * @param to Rank other than this one
   * @param data At most 2^40 bytes
   * @param label 1 to 1024 bytes of UTF-8 without `#`
   * @throws {RangeError} If the rank, the label or the length is out of range
   * @throws {PeerError} If the group has failed
   */
  send(to: number, data: Uint8Array, label: string): Promise<void>;

  /**
   * Receives the next message of `from` under `label`, whichever arrived first: the call or the message.
   *
   * @throws {RangeError} If the rank or the label is out of range
   * @throws {PeerError} If the group has failed, or if no byte comes from that rank for the timeout
   */
  recv(from: number, label: string): Promise<Uint8Array<ArrayBuffer>>;

  /**
   * Gives every rank the data of all, in rank order. Lengths may differ between ranks.
   *
   * Sends the bytes of all ranks but the next one, in R − 1 messages (ring).
   */
  allGather(data: Uint8Array): Promise<Uint8Array<ArrayBuffer>[]>;

  /**
   * Sums `data` over the ranks and returns this rank's segment of the sum, `pairedSegment(data.length, size, rank)`.
   * `data` must be equally long everywhere and is left as it is.
   *
   * Sends the bytes of all segments but this rank's own (ring), n floats of a segment in ⌊n / 262 144⌋ + 1 messages.
   *
   * @throws {RangeError} If the ranks pass different lengths
   */
  reduceScatter(data: Float32Array): Promise<Float32Array<ArrayBuffer>>;

  /**
   * Replaces `data` by its sum over the ranks, bitwise the same on every rank. `data` must be equally long everywhere;
   * it is partly summed if the call fails, and must be left alone until it is done.
   *
   * Ring reduce-scatter and ring all-gather: sends the bytes of all segments but this rank's own and of all but the next
   * rank's, n floats of a segment in ⌊n / 262 144⌋ + 1 messages.
   *
   * @throws {RangeError} If the ranks pass different lengths
   */
  allReduce(data: Float32Array): Promise<void>;

  /**
   * Sends `parts[r]` to rank r and returns what the ranks sent here, in rank order. Lengths may differ.
   *
   * @throws {RangeError} If there is not one part per rank
   */
  allToAll(parts: readonly Uint8Array[]): Promise<Uint8Array<ArrayBuffer>[]>;

  /**
   * Gives every rank the data of `root` along a binomial tree. Only the root's argument is looked at.
   *
   * @throws {RangeError} If `root` is no rank
   * @throws {TypeError} If the root passes no data
   */
  broadcast(data: Uint8Array | undefined, root: number): Promise<Uint8Array<ArrayBuffer>>;

  /** Resolves once every rank has called it. Messages without bytes, ⌈log2 R⌉ of them. */
  barrier(): Promise<void>;

  /** Ends the run: tells every peer the reason and rejects everything pending here. Does nothing on a failed group. */
  abort(reason: Error): void;

  /**
   * Leaves in order: hands over what was sent, says goodbye and closes the links. Messages already received by the peers
   * stay theirs to take. Never rejects; waits for an answer no longer than the timeout, or 2 s if the group has failed.
   *
   * The connection to a stopped process can outlive this call, so a program that has failed should leave by `Deno.exit`.
   */
  close(): Promise<void>;
}
