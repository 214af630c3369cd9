import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { FrameError } from "../../packages/core/transport/errors.ts";
import {
  decodeFrame,
  encodeControlFrame,
  encodeFrame,
  encodeHead,
  type Frame,
  FRAME_HEADER_BYTES,
  frameBytes,
  MAX_FRAME_PAYLOAD_BYTES,
  MAX_MESSAGE_BYTES,
} from "../../packages/core/transport/frame.ts";
import { FrameReader } from "../../packages/core/transport/frame_reader.ts";
import { MessageAssembler } from "../../packages/core/transport/message_assembler.ts";
import { patternBytes, sameBytes } from "./_groups.ts";

const FIRST: Frame = {
  kind: "data",
  messageId: 7,
  label: "k, v",
  totalBytes: 11,
  offsetBytes: 0,
  payload: Uint8Array.of(1, 2, 3),
};

Deno.test("a frame has the documented layout", () => {
  const hex = Array.from(encode(FIRST), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const checksum = hex.slice(24, 32);
  assertEquals(
    hex.replace(checksum, "<checksum>"),
    "4d535446" + "01" + "02" + "0400" + "03000000" + "<checksum>" +
      "0700000000000000" + "0b00000000000000" + "0000000000000000" + "6b2c207600000000" + "010203",
  );
  assertEquals(checksum, fnv1a(encode(FIRST).subarray(0, FRAME_HEADER_BYTES + 8)));
  const apart = encode(FIRST).slice(0, -3);
  apart[5] = 8;
  assertEquals(encodeHead(FIRST), sealed(apart));
});

Deno.test("frames of every kind, label and length come back as they were", () => {
  for (const label of ["x", "12345678", "ring k,v round 1", "ü€😀", "\u0000", "\ufeff mark", "y".repeat(1024)]) {
    for (const payload of [new Uint8Array(0), patternBytes(5, 1), patternBytes(MAX_FRAME_PAYLOAD_BYTES, 2)]) {
      const frame = { ...FIRST, label, payload, totalBytes: payload.length, messageId: Number.MAX_SAFE_INTEGER };
      assertEquals(decodeFrame(encode(frame)), frame);
    }
  }
  const last = { ...FIRST, label: "", totalBytes: MAX_MESSAGE_BYTES, offsetBytes: MAX_MESSAGE_BYTES - 3 };
  assertEquals(decodeFrame(encode(last)), last);
  for (const kind of ["hello", "abort", "filler"] as const) {
    const { payload } = decodeFrame(encodeControlFrame(kind, Uint8Array.of(9)));
    assertEquals([...payload], [9]);
  }
  for (const kind of ["goodbye", "ping", "pong"] as const) {
    assertEquals(decodeFrame(encodeControlFrame(kind)).kind, kind);
  }
});

Deno.test("a decoded payload is a view, and a frame is written to the start of a longer buffer", () => {
  const buffer = new Uint8Array(200).fill(255);
  const bytes = encodeFrame(FIRST, buffer);
  assertEquals(bytes.length, frameBytes(FIRST));
  assertEquals(bytes.buffer, buffer.buffer);
  assertEquals(decodeFrame(bytes).payload.buffer, buffer.buffer);
  assertThrows(() => encodeFrame(FIRST, new Uint8Array(10)), RangeError, "Cannot write a frame of 51 bytes into 10");
});

const MALFORMED: Record<string, { bytes: () => Uint8Array; says: string }> = {
  "nothing": { bytes: () => new Uint8Array(0), says: "a frame of 0 bytes" },
  "half a header": { bytes: () => encode(FIRST).slice(0, 39), says: "the header alone takes 40" },
  "another magic": { bytes: () => patched((view) => view.setUint8(0, 0x4e)), says: "does not start with MSTF" },
  "another version": { bytes: () => patched((view) => view.setUint8(4, 2)), says: "version 2: wanted version 1" },
  "kind 0": { bytes: () => patched((view) => view.setUint8(5, 0)), says: "unknown kind 0" },
  "kind 9": { bytes: () => patched((view) => view.setUint8(5, 9)), says: "unknown kind 9" },
  "a long label": { bytes: () => patched((view) => view.setUint16(6, 1025, true)), says: "the limit is 1024" },
  "a long payload": {
    bytes: () => patched((view) => view.setUint32(8, MAX_FRAME_PAYLOAD_BYTES + 1, true)),
    says: "a payload of 16777217 bytes: the limit is 16777216",
  },
  "a byte less": { bytes: () => encode(FIRST).slice(0, -1), says: "a frame of 50 bytes: its header says 51" },
  "a byte more": { bytes: () => Uint8Array.of(...encode(FIRST), 0), says: "a frame of 52 bytes: its header says 51" },
  "another label": { bytes: () => patched((view) => view.setUint8(40, 0x6c)), says: "checksum" },
  "another id": { bytes: () => patched((view) => view.setUint8(16, 8)), says: "checksum" },
  "a label that is not UTF-8": { bytes: () => resummed((view) => view.setUint8(41, 0xff)), says: "not UTF-8" },
  "padding that is not zero": { bytes: () => resummed((view) => view.setUint8(47, 1)), says: "wanted zeros" },
  "an id beyond 2^53": {
    bytes: () => resummed((view) => view.setUint32(20, 2 ** 21, true)),
    says: "offset 16: it is beyond",
  },
  "a message beyond 2^40": {
    bytes: () => encode({ ...FIRST, totalBytes: MAX_MESSAGE_BYTES + 1 }),
    says: "a message of 1099511627777 bytes: the limit is",
  },
  "a payload beyond its message": { bytes: () => encode({ ...FIRST, totalBytes: 2 }), says: "3 bytes at offset 0" },
  "an empty part": { bytes: () => encode({ ...FIRST, payload: new Uint8Array(0) }), says: "an empty frame" },
  "a first frame without label": { bytes: () => encode({ ...FIRST, label: "" }), says: "the first frame of a message" },
  "a later frame with a label": {
    bytes: () => encode({ ...FIRST, offsetBytes: 3 }),
    says: "the first frame of a message",
  },
  "a control frame in parts": { bytes: () => encode({ ...FIRST, kind: "hello", label: "" }), says: "only data frames" },
  "its payload apart and behind it": {
    bytes: () => patched((view) => view.setUint8(5, 8)),
    says: "a frame of 51 bytes: its header says 48",
  },
  "nothing apart, of nothing": {
    bytes: () => encodeHead({ ...FIRST, totalBytes: 0, payload: new Uint8Array(0) }),
    says: "an empty frame",
  },
  "a ping with a payload": { bytes: () => encodeControlFrame("ping", Uint8Array.of(1)), says: "wanted none" },
};

for (const [name, { bytes, says }] of Object.entries(MALFORMED)) {
  Deno.test(`a frame with ${name} is refused`, () => {
    assertThrows(() => decodeFrame(bytes()), FrameError, says);
  });
}

Deno.test("a payload apart is the message behind its head, and keeps its buffer", () => {
  const reader = new FrameReader();
  const payload = patternBytes(100, 1);
  const frame = { ...FIRST, payload, totalBytes: 100 };
  for (let turn = 0; turn < 2; turn++) {
    assertEquals(reader.read(encodeHead(frame)), undefined);
    assertEquals(reader.unfinished?.payloadBytes, 100);
    const read = reader.read(payload);
    assertEquals(read, frame);
    assertStrictEquals(read!.payload.buffer, payload.buffer);
    assertEquals(reader.unfinished, undefined);
  }
  assertEquals(reader.read(encode(FIRST)), FIRST);
});

Deno.test("a payload apart of another length, or a head without one, is refused", () => {
  const reader = new FrameReader();
  const head = encodeHead(FIRST);
  reader.read(head);
  assertThrows(() => reader.read(patternBytes(4, 1)), FrameError, "a payload of 4 bytes: its header says 3");
  reader.read(patternBytes(3, 1));
  assertThrows(() => reader.read(Uint8Array.of(...head, 1)), FrameError, "its header says 48");
  assertThrows(() => decodeFrame(head), FrameError, "its payload is apart");
  assertThrows(() => reader.read(encodeHead({ ...FIRST, payload: new Uint8Array(0) })), FrameError, "an empty frame");
});

Deno.test("the assembler hands over a whole message in the buffer that it came in", () => {
  const payload = patternBytes(8, 1);
  const whole: Frame = { ...FIRST, messageId: 0, payload, totalBytes: 8 };
  assertStrictEquals(new MessageAssembler().push(whole)!.data.buffer, payload.buffer);
  const view = { ...whole, payload: patternBytes(9, 1).subarray(1) };
  const { data } = new MessageAssembler().push(view)!;
  assertEquals([data.byteOffset, data.buffer.byteLength], [0, 8]);
});

Deno.test("the assembler wants frames in order and without gaps", () => {
  const [first, second, third] = [0, 4, 8].map((offsetBytes) => part(0, offsetBytes));
  const assembler = new MessageAssembler();
  assertEquals([assembler.missingBytes, assembler.label], [0, undefined]);
  assertEquals(assembler.push(first), undefined);
  assertEquals([assembler.missingBytes, assembler.label], [6, "label"]);
  assertEquals(assembler.push(second), undefined);
  assertEquals(assembler.push(third), { label: "label", data: patternBytes(10, 0) });
  assertEquals(assembler.push({ ...FIRST, messageId: 1, totalBytes: 0, payload: new Uint8Array(0) })?.data.length, 0);
  assertThrows(() => assembler.push(first), FrameError, "a frame of message 0: wanted message 2");
  const fresh = () => {
    const assembler = new MessageAssembler();
    assembler.push(first);
    return assembler;
  };
  assertThrows(() => new MessageAssembler().push(second), FrameError, "at offset 4: wanted offset 0");
  assertThrows(() => fresh().push(third), FrameError, "at offset 8: wanted offset 4");
  assertThrows(() => fresh().push(first), FrameError, "at offset 0: wanted offset 4");
  assertThrows(() => fresh().push({ ...second, totalBytes: 11 }), FrameError, "from 10 to 11 bytes");
  assertThrows(() => fresh().push(part(1, 0)), FrameError, "a frame of message 1: wanted message 0");
  const huge = { ...first, totalBytes: MAX_MESSAGE_BYTES };
  assertThrows(() => new MessageAssembler().push(huge), FrameError, "1099511627776 bytes: out of memory");
});

Deno.test("patterns differ between messages and between stretches of one", () => {
  assert(!sameBytes(patternBytes(4096, 1), patternBytes(4096, 2)));
  const long = patternBytes(9 * 2 ** 20, 1);
  assert(!sameBytes(long.subarray(0, 4096), long.subarray(4 * 2 ** 20, 4 * 2 ** 20 + 4096)));
});

/** A part of message `messageId`, ten bytes long and cut at 4 and 8. */
function part(messageId: number, offsetBytes: number): Frame {
  const payload = patternBytes(10, messageId).subarray(offsetBytes, offsetBytes + 4);
  return { kind: "data", messageId, label: offsetBytes === 0 ? "label" : "", totalBytes: 10, offsetBytes, payload };
}

function encode(frame: Frame): Uint8Array<ArrayBuffer> {
  return encodeFrame(frame, new Uint8Array(frameBytes(frame)));
}

function patched(patch: (view: DataView) => void): Uint8Array {
  const bytes = encode(FIRST);
  patch(new DataView(bytes.buffer));
  return bytes;
}

/** Patched, with the checksum that makes the rest of the header look right. */
function resummed(patch: (view: DataView) => void): Uint8Array {
  return sealed(patched(patch));
}

/** The bytes with the checksum of a head with a label of 8 bytes at most. */
function sealed(bytes: Uint8Array): Uint8Array {
  const checksum = fnv1a(bytes.subarray(0, FRAME_HEADER_BYTES + 8));
  for (let index = 0; index < 4; index++) bytes[12 + index] = parseInt(checksum.slice(2 * index, 2 * index + 2), 16);
  return bytes;
}

/** FNV-1a with big integers, bytes 12 to 15 left out, as little-endian hexadecimal. */
function fnv1a(bytes: Uint8Array): string {
  let hash = 2166136261n;
  bytes.forEach((byte, index) => {
    if (index < 12 || index >= 16) hash = ((hash ^ BigInt(byte)) * 16777619n) & 0xffffffffn;
  });
  return [0n, 8n, 16n, 24n].map((shift) => ((hash >> shift) & 255n).toString(16).padStart(2, "0")).join("");
}
