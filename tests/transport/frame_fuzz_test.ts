import { assert, assertEquals } from "@std/assert";
import { FrameError } from "../../packages/core/transport/errors.ts";
import { encodeFrame, encodeHead, frameBytes } from "../../packages/core/transport/frame.ts";
import { FrameReader } from "../../packages/core/transport/frame_reader.ts";
import { type LabelledMessage, MessageAssembler } from "../../packages/core/transport/message_assembler.ts";
import { Random } from "../_support/random.ts";
import { patternBytes, sameBytes } from "./_groups.ts";

const ROUNDS = 6000;
const FRAME_PAYLOAD_BYTES = 16;

/** A WebSocket message: a frame, the head of one, or the payload behind a head. */
interface Wire {
  readonly bytes: Uint8Array;
  /** Length of the part that a checksum guards; 0 for a payload by itself. */
  readonly headBytes: number;
}

/** A change of the WebSocket messages on their way. */
interface Mutation {
  readonly name: string;
  /** Whether the receiver can tell. Payloads are not summed, and a stream that ends early is only an unfinished one. */
  readonly detectable: boolean;
  readonly wires: Uint8Array[];
}

Deno.test(`${ROUNDS} mutations of a stream of frames, some with their payload apart: refused, or nothing wrong is delivered`, () => {
  const random = new Random(20240717);
  const seen = new Map<string, { refused: number; accepted: number }>();
  for (let round = 0; round < ROUNDS; round++) {
    const messages = randomMessages(random);
    const { name, detectable, wires } = mutate(random, messages.flatMap(toWires));
    const { delivered, refused } = receive(wires);
    const count = seen.get(name) ?? { refused: 0, accepted: 0 };
    count[refused ? "refused" : "accepted"] += 1;
    seen.set(name, count);
    if (detectable) assert(refused, `round ${round}: ${name} must be refused`);
    assert(delivered.length <= messages.length, `round ${round}: ${name}`);
    delivered.forEach(({ label, data }, index) => {
      assertEquals(
        [label, data.length],
        [messages[index].label, messages[index].data.length],
        `round ${round}: ${name}`,
      );
      if (name !== "payload bit") assert(sameBytes(data, messages[index].data), `round ${round}: ${name}`);
    });
  }
  assertEquals([...seen.keys()].sort(), [
    "drop",
    "duplicate",
    "header bit",
    "insert",
    "length",
    "none",
    "payload bit",
    "swap",
  ]);
  assertEquals(seen.get("none")!.refused, 0, "the control: unchanged streams pass");
  assertEquals(seen.get("payload bit")!.refused, 0, "the control: payloads are not summed");
});

function receive(wires: Uint8Array[]): { delivered: LabelledMessage[]; refused: boolean } {
  const reader = new FrameReader();
  const assembler = new MessageAssembler();
  const delivered: LabelledMessage[] = [];
  for (const bytes of wires) {
    try {
      const frame = reader.read(bytes);
      const message = frame && assembler.push(frame);
      if (message) delivered.push(message);
    } catch (error) {
      if (error instanceof FrameError) return { delivered, refused: true };
      throw error;
    }
  }
  return { delivered, refused: false };
}

function mutate(random: Random, stream: Wire[]): Mutation {
  const wires = stream.map(({ bytes }) => bytes);
  const at = random.integer(stream.length);
  const { bytes, headBytes } = stream[at];
  const before = wires.slice(0, at);
  const after = wires.slice(at + 1);
  const last = after.length === 0;
  switch (random.integer(8)) {
    case 0:
      if (headBytes === 0) break;
      return { name: "header bit", detectable: true, wires: [...before, flip(random, bytes, 0, headBytes), ...after] };
    case 1: {
      if (bytes.length === headBytes) break;
      const flipped = flip(random, bytes, headBytes, bytes.length);
      return { name: "payload bit", detectable: false, wires: [...before, flipped, ...after] };
    }
    case 2: {
      const length = random.integer(bytes.length + 20);
      if (length === bytes.length) break;
      const resized = new Uint8Array(length);
      resized.set(bytes.subarray(0, length));
      return { name: "length", detectable: true, wires: [...before, resized, ...after] };
    }
    case 3:
      return { name: "drop", detectable: !last, wires: [...before, ...after] };
    case 4:
      return { name: "duplicate", detectable: true, wires: [...before, bytes, bytes, ...after] };
    case 5:
      if (last) break;
      return { name: "swap", detectable: true, wires: [...before, after[0], bytes, ...after.slice(1)] };
    case 6: {
      const noise = Uint8Array.from({ length: random.integer(120) }, () => random.integer(256));
      // Behind a head, noise of the right length is a payload, and payloads are not summed.
      if (headBytes === 0 && noise.length === bytes.length) break;
      return { name: "insert", detectable: true, wires: [...before, noise, bytes, ...after] };
    }
  }
  return { name: "none", detectable: false, wires };
}

function flip(random: Random, bytes: Uint8Array, start: number, end: number): Uint8Array {
  const flipped = bytes.slice();
  flipped[start + random.integer(end - start)] ^= 1 << random.integer(8);
  return flipped;
}

function randomMessages(random: Random): LabelledMessage[] {
  return Array.from({ length: 1 + random.integer(4) }, (_, index) => ({
    label: "label ".repeat(random.integer(3)) + index,
    data: patternBytes(random.integer(3) === 0 ? 0 : random.integer(70), random.integer(1000)),
  }));
}

/** Every other frame that has a payload travels with it apart. */
function toWires({ label, data }: LabelledMessage, messageId: number): Wire[] {
  const wires: Wire[] = [];
  for (let offsetBytes = 0; offsetBytes === 0 || offsetBytes < data.length; offsetBytes += FRAME_PAYLOAD_BYTES) {
    const payload = data.subarray(offsetBytes, offsetBytes + FRAME_PAYLOAD_BYTES);
    const labelled = offsetBytes === 0 ? label : "";
    const frame = { kind: "data" as const, messageId, label: labelled, totalBytes: data.length, offsetBytes, payload };
    const head = encodeHead(frame);
    if (payload.length > 0 && (messageId + offsetBytes / FRAME_PAYLOAD_BYTES) % 2 === 1) {
      wires.push({ bytes: head, headBytes: head.length }, { bytes: payload, headBytes: 0 });
    } else {
      wires.push({ bytes: encodeFrame(frame, new Uint8Array(frameBytes(frame))), headBytes: head.length });
    }
  }
  return wires;
}
