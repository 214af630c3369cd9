/**
 * Puts the data frames of one link together into messages.
 *
 * @module
 */
import { FrameError } from "./errors.ts";
import type { Frame } from "./frame.ts";

/** A whole message. */
export interface LabelledMessage {
  /** Label under which it is received. */
  readonly label: string;
  /** Its bytes, alone in their buffer. */
  readonly data: Uint8Array<ArrayBuffer>;
}

/** Messages come one after the other, numbered from 0, each with its frames in order and without gaps. */
export class MessageAssembler {
  #nextId = 0;
  #label = "";
  #receivedBytes = 0;
  #message: Uint8Array<ArrayBuffer> | undefined;

  /** Label of the message that is half received, if any. */
  get label(): string | undefined {
    return this.#message && this.#label;
  }

  /** Bytes that the half received message still wants, 0 if there is none. */
  get missingBytes(): number {
    return this.#message ? this.#message.length - this.#receivedBytes : 0;
  }

  /**
   * Takes a data frame in and returns the message that it completes, if it completes one. A payload that is a whole
   * message and alone in its buffer is that message; others are copied to their place.
   *
   * @throws {FrameError} If another frame had to come, or if there is no memory for the message
   */
  push(frame: Frame): LabelledMessage | undefined {
    if (frame.messageId !== this.#nextId) {
      throw new FrameError(`Cannot take a frame of message ${frame.messageId}: wanted message ${this.#nextId}`);
    }
    if (frame.offsetBytes !== this.#receivedBytes) {
      throw new FrameError(`Cannot take a frame at offset ${frame.offsetBytes}: wanted offset ${this.#receivedBytes}`);
    }
    if (frame.payload.length === frame.totalBytes) {
      this.#nextId += 1;
      return { label: frame.label, data: ownBytes(frame.payload) };
    }
    const message = this.#message ?? this.#begin(frame);
    if (frame.totalBytes !== message.length) {
      throw new FrameError(`Cannot change the length of a message from ${message.length} to ${frame.totalBytes} bytes`);
    }
    message.set(frame.payload, frame.offsetBytes);
    this.#receivedBytes += frame.payload.length;
    if (this.#receivedBytes < message.length) return undefined;
    this.#nextId += 1;
    this.#receivedBytes = 0;
    this.#message = undefined;
    return { label: this.#label, data: message };
  }

  #begin(frame: Frame): Uint8Array<ArrayBuffer> {
    try {
      this.#message = new Uint8Array(frame.totalBytes);
    } catch (cause) {
      throw new FrameError(`Cannot hold a message of ${frame.totalBytes} bytes: out of memory`, { cause });
    }
    this.#label = frame.label;
    return this.#message;
  }
}

/** The bytes alone in their buffer: themselves if they are, else a copy. */
function ownBytes(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const alone = bytes.buffer instanceof ArrayBuffer && bytes.buffer.byteLength === bytes.length;
  return (alone ? bytes : bytes.slice()) as Uint8Array<ArrayBuffer>;
}
