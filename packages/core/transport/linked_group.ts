/**
 * The process group over links, whatever they are made of.
 *
 * @module
 */
import * as collectives from "./collectives.ts";
import { PeerError, type PeerFailure, type PeerOperation } from "./errors.ts";
import { labelBytes, MAX_LABEL_BYTES, MAX_MESSAGE_BYTES } from "./frame.ts";
import { type Link, LinkFailedError } from "./link.ts";
import type { ProcessGroup, TransportStats } from "./process_group.ts";
import { SharedMemory } from "./shared_memory.ts";
import { StatsCounter } from "./stats.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** What a {@linkcode LinkedGroup} is made of. */
export interface LinkedGroupOptions {
  /** This rank. */
  readonly rank: number;
  /** The link to each rank; none at `rank` itself. */
  readonly links: readonly (Link | undefined)[];
  /** What this rank does while it exchanges nothing, for errors; `local work` by default. */
  readonly activity?: string;
  /** Called once all links are closed. */
  readonly release?: () => Promise<void> | undefined;
}

/** Gives links the collectives, counts what is exchanged, and makes the failure of one link that of the group. */
export class LinkedGroup implements ProcessGroup {
  readonly rank: number;
  readonly size: number;
  step = 0;
  readonly memory = new SharedMemory();
  readonly #links: readonly (Link | undefined)[];
  readonly #activity: string;
  readonly #release: (() => Promise<void> | undefined) | undefined;
  readonly #stats = new StatsCounter();
  readonly #controller = new AbortController();
  readonly #pending = new Set<PeerOperation>();
  readonly #exchange: collectives.Exchange;
  #failure: PeerFailure | undefined;
  #closed: Promise<void> | undefined;
  #calls = 0;

  /** Takes over the links. */
  constructor({ rank, links, activity = "local work", release }: LinkedGroupOptions) {
    this.rank = rank;
    this.size = links.length;
    this.#links = links;
    this.#activity = activity;
    this.#release = release;
    this.#exchange = {
      rank,
      size: links.length,
      send: (to, data, label) => this.#send(to, data, label),
      recv: (from, label) => this.#recv(from, label),
    };
    for (const link of links) link?.onFailure((failure) => this.#fail(failure));
  }

  get stats(): TransportStats {
    return this.#stats.snapshot();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  async send(to: number, data: Uint8Array, label: string): Promise<void> {
    checkLabel(label);
    if (data.length > MAX_MESSAGE_BYTES) {
      throw new RangeError(`Cannot send a message of ${data.length} bytes: the limit is ${MAX_MESSAGE_BYTES}`);
    }
    await this.#send(to, data, label);
  }

  async recv(from: number, label: string): Promise<Bytes> {
    checkLabel(label);
    return await this.#recv(from, label);
  }

  allGather(data: Uint8Array): Promise<Bytes[]> {
    return collectives.allGather(this.#exchange, data, this.#begin("allGather"));
  }

  reduceScatter(data: Float32Array): Promise<Float32Array<ArrayBuffer>> {
    return collectives.reduceScatter(this.#exchange, data, this.#begin("reduceScatter"));
  }

  allReduce(data: Float32Array): Promise<void> {
    return collectives.allReduce(this.#exchange, data, this.#begin("allReduce"));
  }

  allToAll(parts: readonly Uint8Array[]): Promise<Bytes[]> {
    return collectives.allToAll(this.#exchange, parts, this.#begin("allToAll"));
  }

  broadcast(data: Uint8Array | undefined, root: number): Promise<Bytes> {
    return collectives.broadcast(this.#exchange, data, root, this.#begin("broadcast"));
  }

  barrier(): Promise<void> {
    return collectives.barrier(this.#exchange, this.#begin("barrier"));
  }

  abort(reason: Error): void {
    const [detail, origin] = reason instanceof PeerError
      ? [reason.message, reason.origin]
      : [`${reason.name}: ${reason.message}`, this.rank];
    this.#fail({ peer: this.rank, kind: "aborted", detail, origin });
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #send(to: number, data: Uint8Array, label: string): Promise<void> {
    const link = this.#linkTo(to, "send");
    this.#stats.sent(data.length);
    await this.#run({ name: `send "${label}"`, peer: to, step: this.step }, () => link.send(label, data));
  }

  async #recv(from: number, label: string): Promise<Bytes> {
    const link = this.#linkTo(from, "receive");
    const data = await this.#run({ name: `recv "${label}"`, peer: from, step: this.step }, () => link.recv(label));
    this.#stats.received(data.length);
    return data;
  }

  /** Runs an operation of a link, with its failure put down to the operation. */
  async #run<T>(operation: PeerOperation, run: () => Promise<T>): Promise<T> {
    if (this.#failure) throw new PeerError(this.#failure, operation);
    this.#pending.add(operation);
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof LinkFailedError)) throw error;
      throw new PeerError(this.#failure ?? error.failure, operation);
    } finally {
      this.#pending.delete(operation);
    }
  }

  /** The first failure ends the group: the other ranks are told of it before anything else is. */
  #fail(failure: PeerFailure): void {
    if (this.#failure) return;
    this.#failure = failure;
    const error = new PeerError(failure, this.#stoppedBy(failure));
    const detail = failure.kind === "aborted" ? failure.detail : error.message;
    for (const link of this.#links) link?.abort(failure, detail);
    this.#controller.abort(error);
  }

  /** The pending operation that shows best what the failure stops. */
  #stoppedBy(failure: PeerFailure): PeerOperation {
    const pending = [...this.#pending];
    const operation = pending.find(({ peer }) => peer === failure.peer) ?? pending[0];
    return operation ?? { name: this.#activity, step: this.step };
  }

  async #close(): Promise<void> {
    const reason: PeerFailure = {
      peer: this.rank,
      kind: "closed",
      detail: "this rank has closed its process group",
      origin: this.rank,
    };
    this.#failure ??= reason;
    await Promise.all(this.#links.map((link) => link?.close(reason)));
    await this.#release?.();
  }

  /** Counts a collective and names it; all ranks call them in the same order, so the numbers agree. */
  #begin(name: string): string {
    this.#stats.collective(name);
    this.#calls += 1;
    return `${name}#${this.#calls}`;
  }

  #linkTo(rank: number, action: string): Link {
    const link = this.#links[rank];
    if (link) return link;
    const others = `another rank from 0 to ${this.size - 1}`;
    throw new RangeError(`Cannot ${action} between rank ${this.rank} and rank ${rank}: wanted ${others}`);
  }
}

function checkLabel(label: string): void {
  const bytes = labelBytes(label);
  if (bytes === 0 || bytes > MAX_LABEL_BYTES) {
    throw new RangeError(`Cannot use a label of ${bytes} bytes: wanted 1 to ${MAX_LABEL_BYTES}`);
  }
  if (label.includes("#")) throw new RangeError(`Cannot use the label "${label}": # is kept for collectives`);
}
