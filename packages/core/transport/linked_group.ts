/**
 * The process group over links, whatever they are made of.
 *
 * @module
 */
import { PeerError, type PeerFailure, type PeerOperation } from "./errors.ts";
import { ExchangeGroup } from "./exchange_group.ts";
import { labelBytes, MAX_LABEL_BYTES, MAX_MESSAGE_BYTES } from "./frame.ts";
import { type Link, LinkFailedError } from "./link.ts";
import { SharedMemory } from "./shared_memory.ts";

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
export class LinkedGroup extends ExchangeGroup {
  step = 0;
  readonly memory = new SharedMemory();
  readonly #links: readonly (Link | undefined)[];
  readonly #activity: string;
  readonly #release: (() => Promise<void> | undefined) | undefined;
  readonly #controller = new AbortController();
  readonly #pending = new Set<PeerOperation>();
  #failure: PeerFailure | undefined;
  #closed: Promise<void> | undefined;

  /** Takes over the links. */
  constructor({ rank, links, activity = "local work", release }: LinkedGroupOptions) {
    super(rank, links.length);
    this.#links = links;
    this.#activity = activity;
    this.#release = release;
    for (const link of links) link?.onFailure((failure) => this.#fail(failure));
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  async send(to: number, data: Uint8Array, label: string): Promise<void> {
    checkLabel(label);
    if (data.length > MAX_MESSAGE_BYTES) {
      throw new RangeError(`Cannot send a message of ${data.length} bytes: the limit is ${MAX_MESSAGE_BYTES}`);
    }
    await this.sendMessage(to, data, label);
  }

  async recv(from: number, label: string): Promise<Bytes> {
    checkLabel(label);
    return await this.recvMessage(from, label);
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

  protected async sendMessage(to: number, data: Uint8Array, label: string): Promise<void> {
    const link = this.#linkTo(to, "send");
    this.counter.sent(data.length);
    await this.#run({ name: `send "${label}"`, peer: to, step: this.step }, () => link.send(label, data));
  }

  protected async recvMessage(from: number, label: string): Promise<Bytes> {
    const link = this.#linkTo(from, "receive");
    const data = await this.#run({ name: `recv "${label}"`, peer: from, step: this.step }, () => link.recv(label));
    this.counter.received(data.length);
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

  protected labelCollective(name: string, call: number): string {
    return `${name}#${call}`;
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
