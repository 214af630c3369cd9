/**
 * Frames that carry nothing and push the frame before them out of the socket.
 *
 * Deno's WebSocket client leaves Nagle's algorithm on (RFC 896), and writes the head of a message of more than 1024 bytes
 * apart from the rest. Unless the rest fills a TCP segment (64 KiB on the loopback, one packet on a network), TCP holds it
 * back until the head is acknowledged, which the receiver puts off for up to 40 ms. With a filler behind it, it does fill
 * a segment. Deno's server, which turns Nagle's algorithm off, needs none.
 *
 * With TLS both ends leave it on, and what is written is buffered once more, where the end of a long message was seen to
 * stay until something else was written. So there every message is followed by a filler that fills a segment of a
 * network, and, once the socket has taken all, by another.
 *
 * @module
 */
import { encodeControlFrame } from "./frame.ts";

/** Longest message whose head Deno's WebSocket client writes together with the rest. */
const ONE_WRITE_BYTES = 1024;

/** Enough to fill a TCP segment of the loopback, whose packets are 64 KiB long. */
const LOOPBACK_SEGMENT_BYTES = 64 * 1024;

/** Enough to fill a TCP segment of a network whose packets are as long as Ethernet's largest. */
const NETWORK_SEGMENT_BYTES = 9000;

/** Milliseconds between looks at whether the socket has taken all. */
const NUDGE_MS = 50;

const ZEROS = new Uint8Array(LOOPBACK_SEGMENT_BYTES);

/**
 * The frame to send after one of `frameBytes` bytes, where there has to be one, on a link without TLS.
 *
 * @param local whether the link stays on this machine
 */
export function fillerAfter(frameBytes: number, local: boolean): Uint8Array<ArrayBuffer> | undefined {
  const segmentBytes = local ? LOOPBACK_SEGMENT_BYTES : NETWORK_SEGMENT_BYTES;
  if (frameBytes <= ONE_WRITE_BYTES || frameBytes >= segmentBytes) return undefined;
  return encodeControlFrame("filler", ZEROS.subarray(frameBytes, segmentBytes));
}

/** What an {@linkcode EncryptedPush} pushes. */
export interface PushedSocket {
  /** Bytes that the socket has not taken. */
  readonly bufferedAmount: number;
  /** Sends a filler, unless nothing may follow any more. */
  sendFiller(filler: Uint8Array<ArrayBuffer>): void;
}

/** Pushes messages out of an encrypted socket. */
export class EncryptedPush {
  readonly #socket: PushedSocket;
  readonly #filler: Uint8Array<ArrayBuffer>;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #hasSent = false;

  /** @param local whether the link stays on this machine */
  constructor(socket: PushedSocket, local: boolean) {
    this.#socket = socket;
    this.#filler = encodeControlFrame("filler", local ? ZEROS : ZEROS.subarray(0, NETWORK_SEGMENT_BYTES));
  }

  /** A message was sent. */
  message(): void {
    this.#socket.sendFiller(this.#filler);
    this.#hasSent = true;
    this.#timer ??= setTimeout(() => this.#nudge(), NUDGE_MS);
  }

  /** No more is sent. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#hasSent = false;
  }

  /** One more filler behind the last message; the timer runs only while messages are sent. */
  #nudge(): void {
    this.#timer = this.#hasSent ? setTimeout(() => this.#nudge(), NUDGE_MS) : undefined;
    if (!this.#hasSent || this.#socket.bufferedAmount > 0) return;
    this.#socket.sendFiller(this.#filler);
    this.#hasSent = false;
  }
}
