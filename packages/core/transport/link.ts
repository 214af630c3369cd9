/**
 * One peer as the process group sees it, and what links over sockets and in memory have in common.
 *
 * @module
 */
import type { PeerErrorKind, PeerFailure } from "./errors.ts";
import { Inbox } from "./inbox.ts";
import type { LabelledMessage } from "./message_assembler.ts";
import { StallWatch } from "./stall_watch.ts";

/** Milliseconds for which peers are told of a failure before the links are given up. */
export const ABORT_GRACE_MS = 2000;

/** What a link rejects with; the process group turns it into a `PeerError` that names the operation. */
export class LinkFailedError extends Error {
  /** Name of the class. */
  override readonly name = "LinkFailedError";

  /** Wraps the failure. */
  constructor(readonly failure: PeerFailure) {
    super(failure.detail);
  }
}

/** An ordered, reliable exchange of labelled messages with one peer. */
export interface Link {
  /** Rank on the other side. */
  readonly peer: number;
  /** Resolves once the link has taken the bytes. */
  send(label: string, data: Uint8Array): Promise<void>;
  /** Resolves with the next message under the label. */
  recv(label: string): Promise<Uint8Array<ArrayBuffer>>;
  /** Sets who is told, once, when this link fails by itself; told at once if it has failed already. */
  onFailure(listener: (failure: PeerFailure) => void): void;
  /** Ends the link because of a failure here or elsewhere, and tells the peer `detail`. */
  abort(failure: PeerFailure, detail: string): void;
  /** Rejects what is pending with `reason` and leaves in order; never rejects, waits for the peer at most the timeout. */
  close(reason: PeerFailure): Promise<void>;
}

/** Receiving, stalls and failures of a link; how bytes travel is the subclass's part. */
export abstract class BaseLink implements Link {
  /** Rank on the other side. */
  readonly peer: number;
  /** Milliseconds of silence after which the peer counts as stopped. */
  protected readonly timeoutMs: number;
  /** Counts the time spent waiting. */
  protected readonly watch: StallWatch;
  readonly #inbox = new Inbox();
  #failure: PeerFailure | undefined;
  #listener: ((failure: PeerFailure) => void) | undefined;
  #departed = false;
  #closing = false;

  /** Creates a link to `peer`. */
  constructor(peer: number, timeoutMs: number, probe?: () => void) {
    this.peer = peer;
    this.timeoutMs = timeoutMs;
    this.watch = new StallWatch({
      timeoutMs,
      probe,
      stalled: (how) => this.fault("timeout", this.#describeStall(how)),
    });
  }

  abstract send(label: string, data: Uint8Array): Promise<void>;
  abstract abort(failure: PeerFailure, detail: string): void;
  abstract close(reason: PeerFailure): Promise<void>;

  /** What the link still wants from the peer or the peer from the link, for the message of a timeout. */
  protected abstract describeWant(): string;

  async recv(label: string): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#departed && !this.#inbox.has(label)) this.faultDeparted();
    this.throwIfFailed();
    this.watch.begin();
    try {
      return await this.#inbox.take(label);
    } finally {
      this.watch.end();
    }
  }

  onFailure(listener: (failure: PeerFailure) => void): void {
    this.#listener = listener;
    if (this.#failure) listener(this.#failure);
  }

  /** Whether the link has failed, here or by a failure elsewhere. */
  protected get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** Whether the peer has said goodbye. */
  protected get departed(): boolean {
    return this.#departed;
  }

  /** Takes in a message from the peer. */
  protected deliver(message: LabelledMessage): void {
    if (!this.failed && !this.#closing) this.#inbox.deliver(message);
  }

  /** The peer has said goodbye: fine, unless something is still wanted from it. */
  protected depart(): void {
    this.#departed = true;
    if (this.#inbox.awaited) this.faultDeparted();
  }

  /** Something is wanted of a peer that has said goodbye. */
  protected faultDeparted(): void {
    this.fault("closed", "it said goodbye while more was wanted of it");
  }

  /** Rejects receivers; from here on the peer's failures end the link but are no concern of the group's. */
  protected beginClose(reason: PeerFailure): void {
    this.#closing = true;
    this.#inbox.fail(new LinkFailedError(reason));
  }

  /** A failure seen on this link: ends it and tells the listener. */
  protected fault(kind: PeerErrorKind, detail: string, origin: number = this.peer): void {
    if (this.failed) return;
    const failure = { peer: this.peer, kind, detail, origin };
    this.fail(failure);
    if (!this.#closing) this.#listener?.(failure);
  }

  /** Rejects what is pending and all that follows. */
  protected fail(failure: PeerFailure): void {
    if (this.failed) return;
    this.#failure = failure;
    this.#inbox.fail(new LinkFailedError(failure));
  }

  /** @throws {LinkFailedError} If the link has failed */
  protected throwIfFailed(): void {
    if (this.#failure) throw new LinkFailedError(this.#failure);
  }

  #describeStall(how: "silent" | "fruitless"): string {
    const seconds = this.timeoutMs / 1000;
    const what = how === "silent" ? `no bytes for ${seconds} s` : `signs of life but no message for ${2 * seconds} s`;
    const unclaimed = this.#inbox.unclaimed.slice(0, 3).map((label) => `"${label}"`).join(", ");
    return `${what}, ${this.describeWant()}${unclaimed && `, though it sent ${unclaimed}`}`;
  }
}
