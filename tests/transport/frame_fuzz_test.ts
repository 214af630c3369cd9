import { assert, assertEquals } from "@std/assert";
import { FrameError } from "../../packages/core/transport/errors.ts";
import { decodeFrame, encodeFrame, FRAME_HEADER_BYTES, frameBytes } from "../../packages/core/transport/frame.ts";
import { type LabelledMessage, MessageAssembler } from "../../packages/core/transport/message_assembler.ts";
import { Random } from "../_support/random.ts";
import { patternBytes, sameBytes } from "./_groups.ts";

const ROUNDS = 6000;
const FRAME_PAYLOAD_BYTES = 16;

/** A change of the frames on their way. */
interface Mutation {
  readonly name: string;
  /** Whether the receiver can tell. Payloads are not summed, and a stream that ends early is only an unfinished one. */
  readonly detectable: boolean;
  readonly frames: Uint8Array[];
}

Deno.test(`${ROUNDS} mutations of a stream of frames: refused, or nothing wrong is delivered`, () => {
  const random = new Random(20240717);
  const seen = new Map<string, { refused: number; accepted: number }>();
  for (let round = 0; round < ROUNDS; round++) {
    const messages = randomMessages(random);
    const { name, detectable, frames } = mutate(random, messages.flatMap(toFrames));
    const { delivered, refused } = receive(frames);
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

function receive(frames: Uint8Array[]): { delivered: LabelledMessage[]; refused: boolean } {
  const assembler = new MessageAssembler();
  const delivered: LabelledMessage[] = [];
  for (const bytes of frames) {
    try {
      const message = assembler.push(decodeFrame(bytes));
      if (message) delivered.push(message);
    } catch (error) {
      if (error instanceof FrameError) return { delivered, refused: true };
      throw error;
    }
  }
  return { delivered, refused: false };
}

function mutate(random: Random, frames: Uint8Array[]): Mutation {
  const at = random.integer(frames.length);
  const frame = frames[at];
  const before = frames.slice(0, at);
  const after = frames.slice(at + 1);
  const last = after.length === 0;
  switch (random.integer(8)) {
    case 0: {
      const structureBytes = frame.length - payloadOf(frame);
      return {
        name: "header bit",
        detectable: true,
        frames: [...before, flip(random, frame, 0, structureBytes), ...after],
      };
    }
    case 1: {
      if (payloadOf(frame) === 0) break;
      const start = frame.length - payloadOf(frame);
      return {
        name: "payload bit",
        detectable: false,
        frames: [...before, flip(random, frame, start, frame.length), ...after],
      };
    }
    case 2: {
      const length = random.integer(frame.length + 20);
      if (length === frame.length) break;
      const resized = new Uint8Array(length);
      resized.set(frame.subarray(0, length));
      return { name: "length", detectable: true, frames: [...before, resized, ...after] };
    }
    case 3:
      return { name: "drop", detectable: !last, frames: [...before, ...after] };
    case 4:
      return { name: "duplicate", detectable: true, frames: [...before, frame, frame, ...after] };
    case 5:
      if (last) break;
      return { name: "swap", detectable: true, frames: [...before, after[0], frame, ...after.slice(1)] };
    case 6: {
      const noise = Uint8Array.from({ length: random.integer(120) }, () => random.integer(256));
      return { name: "insert", detectable: true, frames: [...before, noise, frame, ...after] };
    }
  }
  return { name: "none", detectable: false, frames };
}

function flip(random: Random, frame: Uint8Array, start: number, end: number): Uint8Array {
  const flipped = frame.slice();
  flipped[start + random.integer(end - start)] ^= 1 << random.integer(8);
  return flipped;
}

function randomMessages(random: Random): LabelledMessage[] {
  return Array.from({ length: 1 + random.integer(4) }, (_, index) => ({
    label: "label ".repeat(random.integer(3)) + index,
    data: patternBytes(random.integer(3) === 0 ? 0 : random.integer(70), random.integer(1000)),
  }));
}

function toFrames({ label, data }: LabelledMessage, messageId: number): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let offsetBytes = 0; offsetBytes === 0 || offsetBytes < data.length; offsetBytes += FRAME_PAYLOAD_BYTES) {
    const payload = data.subarray(offsetBytes, offsetBytes + FRAME_PAYLOAD_BYTES);
    const labelled = offsetBytes === 0 ? label : "";
    const frame = { kind: "data" as const, messageId, label: labelled, totalBytes: data.length, offsetBytes, payload };
    frames.push(encodeFrame(frame, new Uint8Array(frameBytes(frame))));
  }
  return frames;
}

function payloadOf(frame: Uint8Array): number {
  assert(frame.length >= FRAME_HEADER_BYTES);
  return new DataView(frame.buffer, frame.byteOffset).getUint32(8, true);
}
