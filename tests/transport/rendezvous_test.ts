import { assert, assertEquals, assertLess, assertRejects, assertStringIncludes } from "@std/assert";
import { decodeAbort } from "../../packages/core/transport/control_payload.ts";
import { PeerError } from "../../packages/core/transport/errors.ts";
import { encodeControlFrame } from "../../packages/core/transport/frame.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import { connectProcessGroup } from "../../packages/core/transport/rendezvous.ts";
import { delay, joinRun, patternBytes, startRankZero, TOKEN } from "./_groups.ts";
import { openRaw, type RawSocket, sayHello } from "./_rogue_peer.ts";

/** The run goes on as if nothing had happened: the missing ranks join, and all exchange. */
async function finishRun(size: number, url: string, group: Promise<ProcessGroup>): Promise<void> {
  const others = Array.from({ length: size - 1 }, (_, index) => joinRun(index + 1, size, url));
  const groups = await Promise.all([group, ...others]);
  const sums = groups.map(() => Float32Array.of(1));
  await Promise.all(groups.map((group) => group.allReduce(sums[group.rank])));
  assertEquals(sums.map(([sum]) => sum), groups.map(() => size));
  await Promise.all(groups.map((group) => group.close()));
}

const REFUSALS: Record<string, { does: (raw: RawSocket) => void; says: string }> = {
  "a wrong token": { does: (raw) => sayHello(raw, { token: "wrong" }), says: "the token is not the token of this run" },
  "a token that starts right": { does: (raw) => sayHello(raw, { token: `${TOKEN}x` }), says: "the token is not" },
  "no token": { does: (raw) => sayHello(raw, { token: "" }), says: "the token is not the token of this run" },
  "another number of ranks": { does: (raw) => sayHello(raw, { size: 3 }), says: "one of 3 ranks, and this run has 2" },
  "rank 0": { does: (raw) => sayHello(raw, { rank: 0 }), says: "rank 0 is none of 1 to 1" },
  "a rank out of range": { does: (raw) => sayHello(raw, { rank: 2 }), says: "rank 2 is none of 1 to 1" },
  "a rank that is none": { does: (raw) => sayHello(raw, { rank: 0.5 }), says: "wanted an integer rank" },
  "an address that is none": { does: (raw) => sayHello(raw, { url: "http://x" }), says: "its url is no ws:// address" },
  "settings that are none": {
    does: (raw) => sayHello(raw, { settings: { seed: 1 } as never }),
    says: "wanted settings of text",
  },
  "random bytes": { does: ({ socket }) => socket.send(patternBytes(1000, 1)), says: "does not start with MSTF" },
  "an empty message": { does: ({ socket }) => socket.send(new Uint8Array(0)), says: "a frame of 0 bytes" },
  "text": { does: ({ socket }) => socket.send("let me in"), says: "wanted binary frames" },
  "no hello first": {
    does: ({ socket }) => socket.send(encodeControlFrame("ping")),
    says: "wanted a hello frame first",
  },
  "a hello that is no JSON": {
    does: ({ socket }) => socket.send(encodeControlFrame("hello", patternBytes(9, 1))),
    says: "it is not JSON",
  },
  "a hello too long": {
    does: ({ socket }) => socket.send(encodeControlFrame("hello", new Uint8Array(65537))),
    says: "a hello of 65537 bytes: the limit is 65536",
  },
};

for (const [name, { does, says }] of Object.entries(REFUSALS)) {
  Deno.test(`rendezvous: ${name} is refused with the reason, and the run goes on`, async () => {
    const { url, group } = await startRankZero(2);
    const intruder = await openRaw(url);
    const answer = intruder.nextFrame();
    does(intruder);
    const { kind, payload } = await answer;
    const { detail, refused } = decodeAbort(payload);
    assertEquals([kind, refused], ["abort", true]);
    assertStringIncludes(detail, says);
    assertEquals((await intruder.closed).code, 1008);
    await finishRun(2, url, group);
  });
}

Deno.test("rendezvous: a process with a wrong token learns that it is refused", async () => {
  const { url, group } = await startRankZero(2);
  const error = await assertRejects(() => joinRun(1, 2, url, { token: "wrong" }), PeerError);
  assertEquals(
    error.message,
    "Rank 0 refused this rank during rendezvous at step 0: the token is not the token of this run",
  );
  assertEquals(error.kind, "unauthorized");
  await finishRun(2, url, group);
});

Deno.test("rendezvous: the second process with the same rank is refused, the first stays", async () => {
  const { url, group } = await startRankZero(3);
  const second = joinRun(2, 3, url);
  await delay(50);
  const error = await assertRejects(() => joinRun(2, 3, url), PeerError, "rank 2 has joined already");
  assertEquals(error.kind, "unauthorized");
  const groups = await Promise.all([group, joinRun(1, 3, url), second]);
  await Promise.all(groups.map((group) => group.barrier()));
  await Promise.all(groups.map((group) => group.close()));
});

Deno.test("rendezvous: plain HTTP and silent sockets do not disturb it, and later ones are sent away", async () => {
  const { url, group } = await startRankZero(2);
  const page = url.replace("ws:", "http:");
  const response = await fetch(page);
  assertEquals([response.status, await response.text()], [426, "Ranks connect by WebSocket\n"]);
  const silent = await openRaw(url);
  const groups = await Promise.all([group, joinRun(1, 2, url)]);
  const late = await fetch(page, { headers: { upgrade: "websocket", connection: "upgrade" } });
  assertEquals([late.status, await late.text()], [503, "All ranks have joined\n"]);
  sayHello(silent, {});
  await silent.closed;
  await Promise.all(groups.map((group) => group.barrier()));
  await Promise.all(groups.map((group) => group.close()));
  await assertRejects(() => fetch(page), TypeError);
});

Deno.test("rendezvous: the timeout names the ranks that never came, to all that did", async () => {
  const startMs = performance.now();
  const { url, group } = await startRankZero(4, { timeoutMs: 300 });
  const [first, second] = await Promise.all([
    assertRejects(() => group, PeerError),
    assertRejects(() => joinRun(1, 4, url, { timeoutMs: 300 }), PeerError),
  ]);
  const missing = "Rank 2 did not answer during rendezvous at step 0: 2 of 4 ranks (2, 3) did not join in 0.3 s";
  assertEquals(first.message, missing);
  assertEquals([first.kind, first.peer, first.origin], ["timeout", 2, 2]);
  assertEquals(second.message, `Rank 0 aborted the run during rendezvous at step 0: ${missing}`);
  assertEquals([second.kind, second.peer, second.origin], ["aborted", 0, 2]);
  assertLess(performance.now() - startMs, 2300);
});

Deno.test("rendezvous: an address where nobody listens, or nobody answers, is an error", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const url = `ws://127.0.0.1:${listener.addr.port}`;
  const accepted = listener.accept();
  const mute = await assertRejects(() => joinRun(1, 2, url, { timeoutMs: 100 }), PeerError);
  assertStringIncludes(mute.message, "Rank 0 did not answer during rendezvous at step 0: 1 of 2 ranks (0)");
  (await accepted).close();
  listener.close();
  const gone = await assertRejects(() => joinRun(1, 2, url), PeerError);
  assertStringIncludes(gone.message, `Rank 0 left during rendezvous at step 0: nobody answers at ${url}: `);
});

Deno.test("rendezvous: a rank that leaves before all have come ends it for all, and is named", async () => {
  const { url, group } = await startRankZero(4);
  const rejections = Promise.all([
    assertRejects(() => group, PeerError, "Rank 3 left during rendezvous at step 0: the connection ended"),
    assertRejects(
      () => joinRun(1, 4, url),
      PeerError,
      "Rank 0 aborted the run during rendezvous at step 0: Rank 3 left during rendezvous",
    ),
  ]);
  const leaver = await openRaw(url);
  sayHello(leaver, { rank: 3, size: 4 });
  await delay(50);
  leaver.socket.close();
  for (const { origin } of await rejections) assertEquals(origin, 3);
});

Deno.test("rendezvous: a table of addresses that makes no sense ends it", async () => {
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
    const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
    const answer = new TextEncoder().encode(
      JSON.stringify({ addresses: new URL(request.url).pathname === "/few" ? [""] : 1 }),
    );
    socket.onmessage = () => {
      socket.send(encodeControlFrame("hello", answer));
      socket.onmessage = () => socket.close();
    };
    return response;
  });
  const url = `ws://127.0.0.1:${server.addr.port}`;
  const none = await assertRejects(() => joinRun(1, 2, `${url}/none`), PeerError, "wanted a list of ws:// addresses");
  const few = await assertRejects(() => joinRun(1, 2, `${url}/few`), PeerError, "it sent 1 addresses, wanted 2");
  assertEquals([none.kind, few.kind], ["protocol", "protocol"]);
  await server.shutdown();
});

Deno.test("rendezvous: an error in onListening is passed on, and nothing stays open", async () => {
  const onListening = () => {
    throw new Error("no launcher");
  };
  await assertRejects(() => connectProcessGroup({ rank: 0, size: 2, token: TOKEN, onListening }), Error, "no launcher");
});

Deno.test("rendezvous: options that make no sense are refused at once", async () => {
  const connect = (options: Partial<Parameters<typeof connectProcessGroup>[0]>) => () =>
    connectProcessGroup({ rank: 0, size: 2, token: TOKEN, ...options });
  await assertRejects(connect({ size: 0 }), RangeError, "Cannot connect 0 ranks: wanted 1 or more");
  await assertRejects(connect({ size: 1.5 }), RangeError, "Cannot connect 1.5 ranks");
  await assertRejects(connect({ rank: 2 }), RangeError, "Cannot connect rank 2 of 2: wanted 0 to 1");
  await assertRejects(connect({ rank: -1 }), RangeError, "Cannot connect rank -1 of 2");
  await assertRejects(connect({ timeoutMs: 0 }), RangeError, "Cannot wait for 0 ms");
  await assertRejects(connect({ timeoutMs: NaN }), RangeError, "Cannot wait for NaN ms");
  await assertRejects(connect({ token: "" }), TypeError, "Cannot connect with an empty token");
  await assertRejects(connect({ rank: 1 }), TypeError, "wanted the ws:// address of rank 0");
  await assertRejects(connect({ rank: 1, rendezvous: "http://127.0.0.1" }), TypeError, "wanted the ws:// address");
});

Deno.test("rendezvous: one rank needs no listener", async () => {
  const group = await connectProcessGroup({ rank: 0, size: 1, token: TOKEN, onListening: () => assert(false) });
  await group.barrier();
  await group.close();
});
