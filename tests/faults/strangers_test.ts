import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { launch, type RunConfig } from "@mst/bench";
import { connectProcessGroup, MODEL_PRESETS, parseTrainConfig, PeerError } from "@mst/core";
import { encodeHello } from "../../packages/core/transport/control_payload.ts";
import { decodeFrame, encodeControlFrame, encodeFrame, frameBytes } from "../../packages/core/transport/frame.ts";
import { childrenOf, stopsWithin } from "../_support/processes.ts";

const RUN: RunConfig = {
  strategy: "ring",
  ranks: 2,
  placement: "zigzag",
  device: "reference",
  modelName: "tiny",
  model: { ...MODEL_PRESETS.tiny, layers: 1, dim: 16, headDim: 4, ffn: 16 },
  train: parseTrainConfig({ seqTokens: 16, steps: 2 }),
  warmup: 0,
  profile: false,
  timeoutSeconds: 20,
};

/**
 * Runs training on two ranks, and holds rank 1 back until a stranger has done what it does at rank 0's door. The run must
 * go on as if nothing had been. Rank 1 is stopped only once rank 0 listens: while it starts it may hold the lock of
 * Deno's cache, for which rank 0 would wait.
 */
async function withStranger(visit: (url: string) => Promise<void>): Promise<void> {
  const listening = Promise.withResolvers<string>();
  const known = childrenOf(Deno.pid);
  const ranks: number[] = [];
  const launched = launch({
    job: { run: RUN },
    gpus: [],
    onEvent: (_, event) => {
      if (event.type !== "listening") return;
      Deno.kill(ranks[1], "SIGSTOP");
      listening.resolve(event.url);
    },
  });
  launched.catch(listening.reject);
  ranks.push(...childrenOf(Deno.pid).filter((pid) => !known.includes(pid)));
  const url = await listening.promise;
  try {
    assert(await stopsWithin(ranks[1], 5000), "rank 1 is held back");
    await visit(url);
  } finally {
    Deno.kill(ranks[1], "SIGCONT");
  }
  assertEquals((await launched).map(({ steps }) => steps.length), [2, 2]);
}

/** Sends one WebSocket message to a rank; resolves to the reason that it is sent away with. */
async function sendOne(url: string, message: string | Uint8Array<ArrayBuffer>): Promise<string> {
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  const answer = Promise.withResolvers<string>();
  let reason = "";
  socket.onopen = () => socket.send(message);
  socket.onmessage = ({ data }) => {
    reason = new TextDecoder().decode(decodeFrame(new Uint8Array(data)).payload);
  };
  socket.onclose = ({ code }) => answer.resolve(`${code} ${reason}`);
  return await answer.promise;
}

const encode = (text: string) => new TextEncoder().encode(text);

/** A well-formed hello, changed. */
function hello(fields: Record<string, unknown>): Uint8Array<ArrayBuffer> {
  const wellFormed = { rank: 1, size: 2, token: "guess", ...fields };
  return encodeControlFrame("hello", encodeHello(wellFormed as Parameters<typeof encodeHello>[0]));
}

/** A well-formed hello with one byte changed. */
function patched(offset: number, value: number): Uint8Array<ArrayBuffer> {
  const frame = hello({});
  frame[offset] = value;
  return frame;
}

function dataFrame(): Uint8Array<ArrayBuffer> {
  const payload = encode("abc");
  const frame = { kind: "data" as const, messageId: 0, label: "x", totalBytes: 3, offsetBytes: 0, payload };
  return encodeFrame(frame, new Uint8Array(frameBytes(frame)));
}

const MESSAGES: Record<string, [message: string | Uint8Array<ArrayBuffer>, says: string]> = {
  "a text": ["hello", "text message"],
  "an empty message": [new Uint8Array(0), "0 bytes"],
  "half a header": [hello({}).slice(0, 20), "20 bytes"],
  "random bytes": [crypto.getRandomValues(new Uint8Array(100)), "MSTF"],
  "another version": [patched(4, 9), "version 9"],
  "an unknown kind": [patched(5, 99), "kind 99"],
  "a payload longer than it says": [patched(8, 1), "its header says"],
  "a payload of 2 GB": [patched(11, 0x7f), "the limit is"],
  "a wrong checksum": [patched(13, 0), "checksum"],
  "a frame cut short": [hello({}).slice(0, -1), "its header says"],
  "data before a hello": [dataFrame(), "data frame"],
  "a ping before a hello": [encodeControlFrame("ping"), "ping frame"],
  "a goodbye before a hello": [encodeControlFrame("goodbye"), "goodbye frame"],
  "an abort before a hello": [encodeControlFrame("abort", encode("{}")), "abort frame"],
  "a filler before a hello": [encodeControlFrame("filler", new Uint8Array(9)), "filler frame"],
  "a hello that is no JSON": [encodeControlFrame("hello", encode("{")), "not JSON"],
  "a hello that is a list": [encodeControlFrame("hello", encode("[]")), "wanted an integer rank"],
  "a hello without a token": [hello({ token: undefined }), "wanted an integer rank"],
  "a hello of half a rank": [hello({ rank: 0.5 }), "wanted an integer rank"],
  "a hello of 70 kB": [hello({ token: "x".repeat(70_000) }), "the limit is"],
  "a wrong token": [hello({ token: crypto.randomUUID() }), "not the token of this run"],
  "an empty token": [hello({ token: "" }), "not the token of this run"],
};

for (const [name, [message, says]] of Object.entries(MESSAGES)) {
  Deno.test(`who sends ${name} is sent away with the reason, and the run goes on`, async () => {
    await withStranger(async (url) => {
      const answer = await sendOne(url, message);
      assertStringIncludes(answer, says);
      assertStringIncludes(answer, "1008 ");
    });
  });
}

Deno.test("a rank that does not know the token is refused, and the run goes on", async () => {
  await withStranger(async (url) => {
    for (const token of ["guess", crypto.randomUUID()]) {
      const join = () => connectProcessGroup({ rank: 1, size: 2, token, rendezvous: url, timeoutMs: 10_000 });
      const error = await assertRejects(join, PeerError, "the token is not the token of this run");
      assertEquals(error.kind, "unauthorized");
    }
  });
});

Deno.test("who asks for a web page is told what is spoken here, and the run goes on", async () => {
  await withStranger(async (url) => {
    const response = await fetch(url.replace("ws:", "http:"));
    assertEquals(response.status, 426);
    assertStringIncludes(await response.text(), "WebSocket");
  });
});

Deno.test("who says nothing, or no HTTP, does not disturb the run", async () => {
  await withStranger(async (url) => {
    const { hostname, port } = new URL(url);
    using _silent = await Deno.connect({ hostname, port: Number(port) });
    using noisy = await Deno.connect({ hostname, port: Number(port) });
    await noisy.write(crypto.getRandomValues(new Uint8Array(1000)));
    assert(await new Promise<boolean>((resolve) => setTimeout(() => resolve(true), 100)));
  });
});
