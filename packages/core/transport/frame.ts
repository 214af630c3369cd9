/**
 * The binary frame, the unit in which ranks exchange over a WebSocket.
 *
 * Little-endian, a head of 40 bytes and the label (UTF-8, padded with zeros to a multiple of 8), then the payload:
 *
 * | offset | type | field |
 * |---|---|---|
 * | 0 | u32 | magic, the letters `MSTF` |
 * | 4 | u8 | version |
 * | 5 | u8 | kind: 1 hello, 2 data, 3 abort, 4 goodbye, 5 ping, 6 pong, 7 filler, 8 data with its payload apart |
 * | 6 | u16 | label length in bytes |
 * | 8 | u32 | payload length in bytes |
 * | 12 | u32 | FNV-1a checksum of the head, this field left out |
 * | 16 | u64 | message id |
 * | 24 | u64 | total length of the message in bytes |
 * | 32 | u64 | offset of the payload in the message |
 *
 * Head and payload are one WebSocket message, except for kind 8, whose payload is alone in the WebSocket message right
 * behind the head. A long payload goes apart: the sender need not copy it behind a head, and the receiver can hand over
 * the buffer in which it came.
 *
 * The payload is not summed: TCP guards it, and a checksum in script would halve the throughput.
 *
 * @module
 */
import { FrameError } from "./errors.ts";

/** Bytes before the label. */
export const FRAME_HEADER_BYTES = 40;
/** Largest payload of one frame; Deno refuses WebSocket messages of 64 MiB. */
export const MAX_FRAME_PAYLOAD_BYTES = 16 * 1024 * 1024;
/** Longest label in UTF-8. */
export const MAX_LABEL_BYTES = 1024;
/** Longest message. */
export const MAX_MESSAGE_BYTES = 2 ** 40;

/**
 * What a frame is for: greeting, part of a message, end of the run, orderly leave, sign of life asked for and given, and
 * nothing at all.
 */
export type FrameKind = "hello" | "data" | "abort" | "goodbye" | "ping" | "pong" | "filler";

/** One frame. */
export interface Frame {
  /** What it is for. */
  readonly kind: FrameKind;
  /** Number of the message on its link, from 0, for data; 0 for other kinds. */
  readonly messageId: number;
  /** Label of the message in its first frame; empty in later ones and for other kinds. */
  readonly label: string;
  /** Length of the whole message; of the payload for other kinds than data. */
  readonly totalBytes: number;
  /** Where the payload lies in the message. */
  readonly offsetBytes: number;
  /** The bytes: a view, copied by neither encoder's caller nor decoder. */
  readonly payload: Uint8Array;
}

/** All of a frame but its payload. */
export interface FrameHead extends Omit<Frame, "payload"> {
  /** Length of the payload. */
  readonly payloadBytes: number;
  /** Whether the payload is the next WebSocket message, instead of the rest of this one. */
  readonly apart: boolean;
  /** Length of the head, which is where a payload that is not apart begins. */
  readonly headBytes: number;
}

const MAGIC = 0x4654534d;
const VERSION = 1;
const KINDS: readonly FrameKind[] = ["hello", "data", "abort", "goodbye", "ping", "pong", "filler"];
const DATA_APART = 8;
const WITH_PAYLOAD: readonly FrameKind[] = ["hello", "data", "abort", "filler"];
const CHECKSUM_OFFSET = 12;
const UINT32 = 2 ** 32;
const NO_BYTES = new Uint8Array(0);
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Length of a label in UTF-8. */
export function labelBytes(label: string): number {
  return encoder.encode(label).length;
}

/** Length of a frame's head, which `encodeHead` writes. */
export function headBytes(frame: Pick<Frame, "label">): number {
  return FRAME_HEADER_BYTES + padded(labelBytes(frame.label));
}

/** Length of the frame that `encodeFrame` writes. */
export function frameBytes(frame: Pick<Frame, "label" | "payload">): number {
  return headBytes(frame) + frame.payload.length;
}

/**
 * Writes a frame to the start of `into` and returns the part written. Fields are the caller's to keep within the limits;
 * `decodeFrame` refuses what is beyond them.
 *
 * @throws {RangeError} If `into` is too short
 */
export function encodeFrame(frame: Frame, into: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const length = frameBytes(frame);
  if (length > into.length) throw new RangeError(`Cannot write a frame of ${length} bytes into ${into.length} bytes`);
  const { length: payloadStart } = writeHead(frame, KINDS.indexOf(frame.kind) + 1, into);
  into.set(frame.payload, payloadStart);
  return into.subarray(0, length);
}

/** The head of a data frame whose payload is sent as the next WebSocket message, in a buffer of its own. */
export function encodeHead(frame: Frame): Uint8Array<ArrayBuffer> {
  return writeHead(frame, DATA_APART, new Uint8Array(headBytes(frame)));
}

/** A frame of another kind than data, in a buffer of its own. */
export function encodeControlFrame(kind: FrameKind, payload: Uint8Array = NO_BYTES): Uint8Array<ArrayBuffer> {
  const frame = { kind, messageId: 0, label: "", totalBytes: payload.length, offsetBytes: 0, payload };
  return encodeFrame(frame, new Uint8Array(frameBytes(frame)));
}

/**
 * Reads the frame that fills `bytes`. The payload of the result is a view of `bytes`.
 *
 * @throws {FrameError} If the bytes are not exactly one well-formed frame within the limits
 */
export function decodeFrame(bytes: Uint8Array): Frame {
  const head = decodeHead(bytes);
  if (head.apart) throw new FrameError("Cannot read a frame: its payload is apart");
  return joinPayload(head, bytes.subarray(head.headBytes));
}

/** The frame of a head and the payload that it says. */
export function joinPayload(
  { kind, messageId, label, totalBytes, offsetBytes }: FrameHead,
  payload: Uint8Array,
): Frame {
  return { kind, messageId, label, totalBytes, offsetBytes, payload };
}

/**
 * Reads the head of the frame that begins `bytes`.
 *
 * @throws {FrameError} If it is not well-formed and within the limits, or if the bytes are not as many as it says
 */
export function decodeHead(bytes: Uint8Array): FrameHead {
  if (bytes.length < FRAME_HEADER_BYTES) {
    throw new FrameError(`Cannot read a frame of ${bytes.length} bytes: the header alone takes ${FRAME_HEADER_BYTES}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(0, true) !== MAGIC) throw new FrameError("Cannot read a frame: it does not start with MSTF");
  const version = view.getUint8(4);
  if (version !== VERSION) throw new FrameError(`Cannot read a frame of version ${version}: wanted version ${VERSION}`);
  const code = view.getUint8(5);
  const apart = code === DATA_APART;
  const kind = apart ? "data" : KINDS[code - 1];
  if (kind === undefined) throw new FrameError(`Cannot read a frame of unknown kind ${code}`);
  const labelLength = view.getUint16(6, true);
  if (labelLength > MAX_LABEL_BYTES) {
    throw new FrameError(`Cannot read a label of ${labelLength} bytes: the limit is ${MAX_LABEL_BYTES}`);
  }
  const payloadBytes = view.getUint32(8, true);
  if (payloadBytes > MAX_FRAME_PAYLOAD_BYTES) {
    throw new FrameError(`Cannot read a payload of ${payloadBytes} bytes: the limit is ${MAX_FRAME_PAYLOAD_BYTES}`);
  }
  const headBytes = FRAME_HEADER_BYTES + padded(labelLength);
  const wantedBytes = headBytes + (apart ? 0 : payloadBytes);
  if (bytes.length !== wantedBytes) {
    throw new FrameError(`Cannot read a frame of ${bytes.length} bytes: its header says ${wantedBytes}`);
  }
  if (view.getUint32(CHECKSUM_OFFSET, true) !== checksum(bytes.subarray(0, headBytes))) {
    throw new FrameError("Cannot read a frame: the checksum of its header is wrong");
  }
  const head: FrameHead = {
    kind,
    messageId: getUint64(view, 16),
    label: decodeLabel(bytes.subarray(FRAME_HEADER_BYTES, headBytes), labelLength),
    totalBytes: getUint64(view, 24),
    offsetBytes: getUint64(view, 32),
    payloadBytes,
    apart,
    headBytes,
  };
  checkFields(head);
  return head;
}

/** Refuses fields that contradict one another, whatever came before on the link. */
function checkFields({ kind, messageId, label, totalBytes, offsetBytes, payloadBytes, apart }: FrameHead): void {
  if (kind !== "data") {
    if (messageId !== 0 || label !== "" || offsetBytes !== 0 || totalBytes !== payloadBytes) {
      throw new FrameError(`Cannot read a ${kind} frame: only data frames are part of a longer message`);
    }
    if (payloadBytes > 0 && !WITH_PAYLOAD.includes(kind)) {
      throw new FrameError(`Cannot read a ${kind} frame with a payload of ${payloadBytes} bytes: wanted none`);
    }
    return;
  }
  if (totalBytes > MAX_MESSAGE_BYTES) {
    throw new FrameError(`Cannot receive a message of ${totalBytes} bytes: the limit is ${MAX_MESSAGE_BYTES}`);
  }
  if (offsetBytes + payloadBytes > totalBytes) {
    throw new FrameError(
      `Cannot place ${payloadBytes} bytes at offset ${offsetBytes} of a message of ${totalBytes} bytes`,
    );
  }
  if (payloadBytes === 0 && (totalBytes > 0 || apart)) {
    throw new FrameError(`Cannot use an empty frame of a message of ${totalBytes} bytes`);
  }
  if ((label === "") !== (offsetBytes > 0)) {
    throw new FrameError(
      `Cannot read a frame at offset ${offsetBytes}: the first frame of a message, and no other, is labelled`,
    );
  }
}

/** Writes the head of a frame to the start of `into` and returns the part written. */
function writeHead(frame: Frame, code: number, into: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const label = frame.label === "" ? NO_BYTES : encoder.encode(frame.label);
  const length = FRAME_HEADER_BYTES + padded(label.length);
  const view = new DataView(into.buffer, into.byteOffset, length);
  view.setUint32(0, MAGIC, true);
  view.setUint8(4, VERSION);
  view.setUint8(5, code);
  view.setUint16(6, label.length, true);
  view.setUint32(8, frame.payload.length, true);
  setUint64(view, 16, frame.messageId);
  setUint64(view, 24, frame.totalBytes);
  setUint64(view, 32, frame.offsetBytes);
  into.fill(0, FRAME_HEADER_BYTES + label.length, length);
  into.set(label, FRAME_HEADER_BYTES);
  const head = into.subarray(0, length);
  view.setUint32(CHECKSUM_OFFSET, checksum(head), true);
  return head;
}

function decodeLabel(bytes: Uint8Array, length: number): string {
  if (bytes.subarray(length).some((byte) => byte !== 0)) {
    throw new FrameError("Cannot read a label: wanted zeros behind it");
  }
  try {
    return decoder.decode(bytes.subarray(0, length));
  } catch (cause) {
    throw new FrameError("Cannot read a label: it is not UTF-8", { cause });
  }
}

function getUint64(view: DataView, offset: number): number {
  const value = view.getUint32(offset, true) + view.getUint32(offset + 4, true) * UINT32;
  if (!Number.isSafeInteger(value)) {
    throw new FrameError(`Cannot read the field at offset ${offset}: it is beyond 2^53`);
  }
  return value;
}

function setUint64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % UINT32, true);
  view.setUint32(offset + 4, Math.floor(value / UINT32), true);
}

/** Rounds up to a multiple of 8. */
function padded(length: number): number {
  return (length + 7) & ~7;
}

/** FNV-1a, 32 bits, without the four bytes of the checksum itself. */
function checksum(header: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < header.length; index++) {
    if (index === CHECKSUM_OFFSET) index += 4;
    hash = Math.imul(hash ^ header[index], 0x01000193);
  }
  return hash >>> 0;
}
