/**
 * Frames that carry nothing and push the frame before them out of the socket.
 *
 * Deno's WebSocket client leaves Nagle's algorithm on (RFC 896), and writes the head of a message of more than 1024 bytes
 * apart from the rest. Unless the rest fills a TCP segment (64 KiB on the loopback), TCP holds it back until the head is
 * acknowledged, which the receiver puts off for up to 40 ms. With a filler behind it, it does fill a segment. Deno's
 * server, which turns Nagle's algorithm off, needs none.
 *
 * @module
 */
import { encodeControlFrame } from "./frame.ts";

/** Longest message whose head Deno's WebSocket client writes together with the rest. */
const ONE_WRITE_BYTES = 1024;

/** Enough to fill a TCP segment of the loopback, whose packets are 64 KiB long. */
const SEGMENT_BYTES = 64 * 1024;

const ZEROS = new Uint8Array(SEGMENT_BYTES);

/** The frame to send after one of `frameBytes` bytes, where there has to be one. */
export function fillerAfter(frameBytes: number): Uint8Array<ArrayBuffer> | undefined {
  if (frameBytes <= ONE_WRITE_BYTES || frameBytes >= SEGMENT_BYTES) return undefined;
  return encodeControlFrame("filler", ZEROS.subarray(frameBytes));
}
