/**
 * Puts heads and payloads that come in WebSocket messages of their own together.
 *
 * @module
 */
import { FrameError } from "./errors.ts";
import { decodeHead, type Frame, type FrameHead, joinPayload } from "./frame.ts";

/** Reads the WebSocket messages of one link, in order. */
export class FrameReader {
  #head: FrameHead | undefined;

  /** The head whose payload has to come next, if one has to. */
  get unfinished(): FrameHead | undefined {
    return this.#head;
  }

  /**
   * Reads the next WebSocket message, and returns the frame that it is or completes; none if it is a head whose payload
   * is apart. The payload of the result is a view of `bytes`.
   *
   * @throws {FrameError} If the bytes are neither a well-formed frame nor, behind a head, a payload of its length
   */
  read(bytes: Uint8Array): Frame | undefined {
    const head = this.#head;
    if (!head) return this.#readHead(bytes);
    if (bytes.length !== head.payloadBytes) {
      throw new FrameError(`Cannot read a payload of ${bytes.length} bytes: its header says ${head.payloadBytes}`);
    }
    this.#head = undefined;
    return joinPayload(head, bytes);
  }

  #readHead(bytes: Uint8Array): Frame | undefined {
    const head = decodeHead(bytes);
    if (!head.apart) return joinPayload(head, bytes.subarray(head.headBytes));
    this.#head = head;
    return undefined;
  }
}
