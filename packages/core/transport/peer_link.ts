/**
 * A link over one WebSocket.
 *
 * @module
 */
import { decodeAbort, encodeAbort } from "./control_payload.ts";
import { FrameError, type PeerFailure } from "./errors.ts";
import { EncryptedPush, fillerAfter, type PushedSocket } from "./filler.ts";
import { encodeControlFrame, encodeFrame, encodeHead, type Frame, frameBytes, type FrameKind } from "./frame.ts";
import { MAX_FRAME_PAYLOAD_BYTES } from "./frame.ts";
import { FrameReader } from "./frame_reader.ts";
import { ABORT_GRACE_MS, BaseLink, LinkFailedError } from "./link.ts";
import { MessageAssembler } from "./message_assembler.ts";
import { release } from "./release.ts";
import { isShared } from "./shared_memory.ts";

/**
 * A message that fits is one frame, which the receiver hands over as it came. Parts of a longer one, which it has to
 * copy to their place, are shorter: they are still in the processor's cache then, and their memory serves the next.
 */
const PART_BYTES = 4 * 1024 * 1024;
/** Bytes that may wait in the socket before a frame more: four parts keep it busy from one poll to the next. */
const HIGH_WATER_BYTES = 4 * PART_BYTES;
const LONGEST_POLL_MS = 16;
/**
 * What the slowest link carries. The receiver of a frame notices nothing before it is whole, so one must not take a link
 * so long that the sender seems to have stopped.
 */
const SLOWEST_BYTES_PER_MS = 1000;
/** Parts on an encrypted link, since Deno's server takes a time that grows with the square of a message's length there. */
const ENCRYPTED_PART_BYTES = 256 * 1024;
/** Shortest payload that goes apart; long enough to push the head before it out of the socket, see `fillerAfter`. */
const APART_BYTES = 64 * 1024;

interface OutgoingMessage {
  readonly label: string;
  readonly data: Uint8Array;
  readonly taken: PromiseWithResolvers<void>;
}

/** How a {@linkcode PeerLink} treats its peer. */
export interface PeerLinkOptions {
  /** Rank on the other side. */
  readonly peer: number;
  /** Milliseconds of silence after which the peer counts as stopped. */
  readonly timeoutMs: number;
  /**
   * Whether this rank accepted the connection. It then answers each message with a pong: Deno's WebSocket client leaves
   * Nagle's algorithm on, so that a small message would wait up to 40 ms for TCP to acknowledge the one before, which a
   * frame in the other direction does at once. A rank that connected sends fillers, for the same reason.
   */
  readonly accepted: boolean;
  /** Whether the connection is encrypted; both ranks send fillers then, see `EncryptedPush`. */
  readonly encrypted: boolean;
  /** Whether the peer is on this machine. */
  readonly local: boolean;
}

/**
 * Sends messages one after the other, cut into frames, with a bounded number of bytes in the socket; receives whatever
 * comes. Takes over an open socket, whose greeting is done, with all its handlers.
 */
export class PeerLink extends BaseLink {
  readonly #socket: WebSocket;
  readonly #accepted: boolean;
  readonly #local: boolean;
  readonly #push: EncryptedPush | undefined;
  readonly #reader = new FrameReader();
  readonly #assembler = new MessageAssembler();
  readonly #outgoing: OutgoingMessage[] = [];
  readonly #disconnected = Promise.withResolvers<void>();
  #sending = false;
  #saidLast = false;
  #sent: Promise<void> = Promise.resolve();
  #frame = new Uint8Array(0);
  #nextId = 0;

  /** Takes over the socket. */
  constructor(socket: WebSocket, { peer, timeoutMs, accepted, encrypted, local }: PeerLinkOptions) {
    super(peer, timeoutMs, () => this.#sendControl("ping"));
    this.#socket = socket;
    this.#accepted = accepted;
    this.#local = local;
    if (encrypted) this.#push = new EncryptedPush(this.#pushed(), local);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#disconnect(event.code);
  }

  override async send(label: string, data: Uint8Array): Promise<void> {
    if (this.departed) this.faultDeparted();
    this.throwIfFailed();
    const taken = Promise.withResolvers<void>();
    this.#outgoing.push({ label, data, taken });
    if (!this.#sending) this.#sent = this.#sendAll();
    await taken.promise;
  }

  override abort(failure: PeerFailure, detail: string): void {
    this.#sendControl("abort", encodeAbort({ origin: failure.origin, detail, refused: false }));
    this.fail(failure);
  }

  override async close(reason: PeerFailure): Promise<void> {
    const graceMs = this.failed ? Math.min(ABORT_GRACE_MS, this.timeoutMs) : this.timeoutMs;
    this.beginClose(reason);
    await this.#sent;
    this.#push?.stop();
    if (!this.failed) this.#sendControl("goodbye");
    // The peer closes the socket once it has read the last frame: closing it here could drop frames still to be written.
    await settledWithin(this.#disconnected.promise, graceMs);
    this.#socket.close();
  }

  protected override fail(failure: PeerFailure): void {
    super.fail(failure);
    this.#push?.stop();
    for (const { taken } of this.#outgoing.splice(0)) taken.reject(new LinkFailedError(failure));
  }

  protected override describeWant(): string {
    const { missingBytes, label } = this.#assembler;
    if (missingBytes > 0) return `wanted ${missingBytes} more of "${label}"`;
    const head = this.#reader.unfinished;
    if (head) return `wanted ${head.totalBytes} more of "${head.label}"`;
    const { bufferedAmount } = this.#socket;
    return bufferedAmount > 0 ? `${bufferedAmount} sent to it are not taken` : "wanted a message";
  }

  /** Never rejects: a failure has rejected the messages by itself. */
  async #sendAll(): Promise<void> {
    this.#sending = true;
    for (let message = this.#outgoing[0]; message; message = this.#outgoing[0]) {
      await this.#sendMessage(message);
      if (this.failed) break;
      this.#outgoing.shift();
      message.taken.resolve();
    }
    this.#sending = false;
  }

  async #sendMessage({ label, data }: OutgoingMessage): Promise<void> {
    const messageId = this.#nextId++;
    const partBytes = this.#partBytes(data.length);
    let offsetBytes = 0;
    do {
      if (this.#socket.bufferedAmount >= HIGH_WATER_BYTES) await this.#drain();
      if (this.failed) return;
      const payload = data.subarray(offsetBytes, offsetBytes + partBytes);
      const labelled = offsetBytes === 0 ? label : "";
      this.#sendFrame({ kind: "data", messageId, label: labelled, totalBytes: data.length, offsetBytes, payload });
      offsetBytes += payload.length;
    } while (offsetBytes < data.length);
    this.#push?.message();
  }

  #partBytes(messageBytes: number): number {
    const patienceBytes = Math.ceil(this.timeoutMs / 2 * SLOWEST_BYTES_PER_MS);
    if (this.#push) return Math.min(ENCRYPTED_PART_BYTES, patienceBytes);
    if (messageBytes <= Math.min(MAX_FRAME_PAYLOAD_BYTES, patienceBytes)) return messageBytes;
    return Math.min(PART_BYTES, patienceBytes);
  }

  /** The socket copies what it is given, so that one buffer serves all frames and payloads are sent as they lie. */
  #sendFrame(frame: Frame): void {
    if (frame.payload.length >= APART_BYTES) {
      this.#socket.send(encodeHead(frame));
      this.#socket.send(this.#ownMemory(frame.payload));
      return;
    }
    const bytes = encodeFrame(frame, this.#frameOf(frameBytes(frame)));
    this.#socket.send(bytes);
    const filler = this.#accepted || this.#push ? undefined : fillerAfter(bytes.length, this.#local);
    if (filler) this.#socket.send(filler);
  }

  /** The payload as it lies, or a copy of it: sockets take no shared memory. */
  #ownMemory(payload: Uint8Array): Uint8Array<ArrayBuffer> {
    if (!isShared(payload)) return payload as Uint8Array<ArrayBuffer>;
    const copy = this.#frameOf(payload.length).subarray(0, payload.length);
    copy.set(payload);
    return copy;
  }

  #pushed(): PushedSocket {
    const socket = this.#socket;
    return {
      get bufferedAmount() {
        return socket.bufferedAmount;
      },
      // One between a goodbye or an abort and the end would be one frame too many.
      sendFiller: (filler) => {
        if (!this.#saidLast && socket.readyState === WebSocket.OPEN) socket.send(filler);
      },
    };
  }

  /** Waits until the socket has room, polling since sockets have no event for it. */
  async #drain(): Promise<void> {
    this.watch.begin();
    let buffered = this.#socket.bufferedAmount;
    for (let pollMs = 1; buffered >= HIGH_WATER_BYTES && !this.failed; pollMs = Math.min(2 * pollMs, LONGEST_POLL_MS)) {
      await delay(pollMs);
      const left = this.#socket.bufferedAmount;
      if (left < buffered) this.watch.progress();
      buffered = left;
    }
    this.watch.end();
  }

  #frameOf(bytes: number): Uint8Array<ArrayBuffer> {
    if (this.#frame.length < bytes) this.#frame = new Uint8Array(bytes);
    return this.#frame;
  }

  /** Nothing follows a goodbye or an abort, not even a sign of life that is asked for. */
  #sendControl(kind: FrameKind, payload?: Uint8Array): void {
    if (this.#saidLast || this.#socket.readyState !== WebSocket.OPEN) return;
    this.#socket.send(encodeControlFrame(kind, payload));
    this.#saidLast = kind === "goodbye" || kind === "abort";
  }

  #receive(data: unknown): void {
    try {
      if (!(data instanceof ArrayBuffer)) throw new FrameError("Cannot read a text message: wanted binary frames");
      this.watch.alive();
      const frame = this.#reader.read(new Uint8Array(data));
      if (!frame) return;
      if (!this.failed) this.#take(frame);
      if (frame.kind === "abort" || frame.kind === "goodbye") this.#socket.close();
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.fault("protocol", error.message);
    }
  }

  #take(frame: Frame): void {
    if (this.departed) throw new FrameError(`Cannot take a ${frame.kind} frame: the peer has said goodbye`);
    switch (frame.kind) {
      case "data":
        return this.#takeData(frame);
      case "ping":
        return this.#sendControl("pong");
      case "pong":
      case "filler":
        return;
      case "abort": {
        const { detail, origin } = decodeAbort(frame.payload);
        return this.fault("aborted", detail, origin);
      }
      case "goodbye":
        if (this.#assembler.missingBytes === 0) return this.depart();
        throw new FrameError(`Cannot take a goodbye: ${this.#assembler.missingBytes} bytes of a message are missing`);
      case "hello":
        throw new FrameError("Cannot take a hello frame: the link is up");
    }
  }

  #takeData(frame: Frame): void {
    this.watch.progress();
    const message = this.#assembler.push(frame);
    if (message?.data !== frame.payload) release(frame.payload);
    if (!message) return;
    if (this.#accepted && !this.#push) this.#sendControl("pong");
    this.deliver(message);
  }

  #disconnect(code: number): void {
    this.#disconnected.resolve();
    if (!this.departed) this.fault("closed", `the connection ended without a goodbye (code ${code})`);
    else if (this.#sending) this.faultDeparted();
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits for the promise, but no longer than the limit, and leaves no timer behind. */
async function settledWithin(promise: Promise<void>, limitMs: number): Promise<void> {
  const limit = Promise.withResolvers<void>();
  const timer = setTimeout(limit.resolve, limitMs);
  await Promise.race([promise, limit.promise]);
  clearTimeout(timer);
}
