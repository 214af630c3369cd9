import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { decodeAbort } from "../../packages/core/transport/control_payload.ts";
import { PeerError } from "../../packages/core/transport/errors.ts";
import { encodeControlFrame } from "../../packages/core/transport/frame.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import { delay, joinRun, patternBytes, startRankZero } from "./_groups.ts";
import { dataFrame, dataHead, joinAsRogue, joinWithoutReading, type RawSocket } from "./_rogue_peer.ts";

const TIMEOUT_MS = 300;
/** Timers of a busy machine are late, never early. */
const LATE_MS = 2000;

/** Runs rank 0 of 2 against a peer that misbehaves, and cleans up behind both. */
async function againstRogue(body: (group: ProcessGroup, rogue: RawSocket) => Promise<void>): Promise<void> {
  const { url, group: connecting } = await startRankZero(2, { timeoutMs: TIMEOUT_MS });
  const [rogue] = await joinAsRogue(url, 2);
  const group = await connecting;
  group.step = 3;
  try {
    await body(group, rogue);
  } finally {
    rogue.socket.close();
    await group.close();
    await rogue.closed;
  }
}

const VIOLATIONS: Record<string, { send: () => Uint8Array<ArrayBuffer> | string; says: string }> = {
  "random bytes": { send: () => patternBytes(100, 1), says: "does not start with MSTF" },
  "text": { send: () => "hello", says: "wanted binary frames" },
  "a message out of order": {
    send: () => dataFrame({ messageId: 1, payload: patternBytes(1, 1) }),
    says: "wanted message 0",
  },
  "a second hello": { send: () => encodeControlFrame("hello"), says: "the link is up" },
  "an endless message": {
    send: () => dataFrame({ totalBytes: 2 ** 40, payload: patternBytes(1, 1) }),
    says: "out of memory",
  },
  "an abort of no sense": { send: () => encodeControlFrame("abort", patternBytes(3, 1)), says: "Cannot read a abort" },
};

for (const [name, { send, says }] of Object.entries(VIOLATIONS)) {
  Deno.test(`a peer that sends ${name} ends the run and is told why`, () =>
    againstRogue(async (group, { socket, nextFrame }) => {
      const told = nextFrame();
      const pending = assertRejects(() => group.recv(1, "k,v"), PeerError, `during recv "k,v" at step 3: `);
      socket.send(send());
      const error = await pending;
      assertEquals([error.kind, error.peer, error.origin, error.step], ["protocol", 1, 1, 3]);
      assertStringIncludes(error.message, says);
      assertEquals(group.signal.reason instanceof PeerError && group.signal.reason.message, error.message);
      const notice = await told;
      assertEquals([notice.kind, decodeAbort(notice.payload).detail], ["abort", error.message]);
    }));
}

Deno.test("a peer that says goodbye in the middle of a message breaks the protocol", () =>
  againstRogue(async (group, { socket }) => {
    socket.send(dataFrame({ totalBytes: 10, payload: patternBytes(4, 1) }));
    socket.send(encodeControlFrame("goodbye"));
    const error = await assertRejects(() => group.recv(1, "x"), PeerError, "6 bytes of a message are missing");
    assertEquals(error.kind, "protocol");
  }));

for (const [what, wrong] of Object.entries({ ping: encodeControlFrame("ping"), shorter: patternBytes(9, 1) })) {
  Deno.test(`a peer that sends a ${what} message where a payload has to come breaks the protocol`, () =>
    againstRogue(async (group, { socket }) => {
      socket.send(dataHead(patternBytes(10, 1)));
      socket.send(wrong);
      const error = await assertRejects(() => group.recv(1, "x"), PeerError, "bytes: its header says 10");
      assertEquals(error.kind, "protocol");
    }));
}

Deno.test("a peer that stops behind a head is found by the timeout, with what it owes", () =>
  againstRogue(async (group, { socket }) => {
    socket.send(dataHead(patternBytes(1000, 1)));
    await delay(50);
    const error = await assertRejects(() => group.recv(1, "x"), PeerError, `wanted 1000 more of "x"`);
    assertEquals(error.kind, "timeout");
  }));

Deno.test("a message whose payload is apart comes whole, however short", () =>
  againstRogue(async (group, { socket }) => {
    socket.send(dataHead(patternBytes(10, 1)));
    socket.send(patternBytes(10, 1));
    assertEquals(await group.recv(1, "x"), patternBytes(10, 1));
  }));

Deno.test("a peer that closes in the middle of a message is noticed at once", () =>
  againstRogue(async (group, { socket }) => {
    const pending = assertRejects(() => group.recv(1, "x"), PeerError, `Rank 1 left during recv "x" at step 3: `);
    socket.send(dataFrame({ totalBytes: 10, payload: patternBytes(4, 1) }));
    socket.close();
    assertEquals((await pending).kind, "closed");
    await assertRejects(() => group.barrier(), PeerError, `Rank 1 left during send "barrier#1 distance 1" at step 3: `);
  }));

Deno.test("a peer that leaves while nothing is exchanged aborts the signal", () =>
  againstRogue(async (group, { socket }) => {
    const aborted = new Promise((resolve) => group.signal.addEventListener("abort", resolve));
    socket.close();
    await aborted;
    assertStringIncludes(group.signal.reason.message, "Rank 1 left during local work at step 3: the connection ended");
    await assertRejects(
      () => group.send(1, new Uint8Array(1), "y"),
      PeerError,
      `Rank 1 left during send "y" at step 3`,
    );
  }));

Deno.test("a peer that stops is found by the timeout, with what it owes", () =>
  againstRogue(async (group, { socket, frames }) => {
    const message = patternBytes(1000, 1);
    socket.send(dataFrame({ totalBytes: message.length, payload: message.subarray(0, 100) }));
    await delay(50);
    const startMs = performance.now();
    const error = await assertRejects(
      () => group.recv(1, "x"),
      PeerError,
      `Rank 1 stopped answering during recv "x" at step 3: no bytes for 0.3 s, wanted 900 more of "x"`,
    );
    assertEquals(error.kind, "timeout");
    assertGreaterOrEqual(performance.now() - startMs, TIMEOUT_MS - 1);
    assertLess(performance.now() - startMs, TIMEOUT_MS + LATE_MS);
    assert(frames.filter(({ kind }) => kind === "ping").length >= 3, "it was asked for a sign of life");
  }));

Deno.test("a peer that answers pings but sends nothing is given twice the timeout", () =>
  againstRogue(async (group, { socket }) => {
    socket.onmessage = () => socket.send(encodeControlFrame("pong"));
    socket.send(dataFrame({ label: "another", payload: patternBytes(1, 1) }));
    await delay(50);
    const startMs = performance.now();
    const error = await assertRejects(
      () => group.recv(1, "x"),
      PeerError,
      `signs of life but no message for 0.6 s, wanted a message, though it sent "another"`,
    );
    assertEquals(error.kind, "timeout");
    assertGreaterOrEqual(performance.now() - startMs, 2 * TIMEOUT_MS - 1);
  }));

Deno.test("a slow peer is no stopped one: every byte starts the timeout anew", () =>
  againstRogue(async (group, { socket }) => {
    const message = patternBytes(6, 1);
    const pending = group.recv(1, "x");
    for (let offsetBytes = 0; offsetBytes < 6; offsetBytes++) {
      await delay(TIMEOUT_MS / 2);
      const payload = message.subarray(offsetBytes, offsetBytes + 1);
      socket.send(dataFrame({ label: offsetBytes ? "" : "x", totalBytes: 6, offsetBytes, payload }));
    }
    assertEquals(await pending, message);
  }));

Deno.test("a peer is not blamed for the time in which this process was busy", () =>
  againstRogue(async (group, { socket }) => {
    const pending = group.recv(1, "x");
    await delay(TIMEOUT_MS / 10);
    socket.send(dataFrame({ payload: patternBytes(1, 1) }));
    const busyUntilMs = performance.now() + 2 * TIMEOUT_MS;
    while (performance.now() < busyUntilMs);
    assertEquals(await pending, patternBytes(1, 1));
  }));

Deno.test("waiting for nothing, a silent peer is no fault", () =>
  againstRogue(async (group) => {
    await delay(2.5 * TIMEOUT_MS);
    assert(!group.signal.aborted);
  }));

Deno.test("nothing follows a goodbye, whatever the peer still asks", () =>
  againstRogue(async (group, { socket, frames, nextFrame }) => {
    const goodbye = nextFrame();
    const closing = group.close();
    assertEquals((await goodbye).kind, "goodbye");
    socket.send(encodeControlFrame("ping"));
    socket.send(dataFrame({ payload: patternBytes(1, 1) }));
    await delay(50);
    assertEquals(frames.at(-1)!.kind, "goodbye");
    socket.close();
    await closing;
  }));

Deno.test("a peer that does not read holds back the sender, and is found by the timeout", async () => {
  const { url, group: connecting } = await startRankZero(2, { timeoutMs: TIMEOUT_MS });
  const connection = await joinWithoutReading(url);
  const group = await connecting;
  const error = await assertRejects(
    () => group.send(1, new Uint8Array(64 * 2 ** 20), "large"),
    PeerError,
    `Rank 1 stopped answering during send "large" at step 0: no bytes for 0.3 s, `,
  );
  const [, heldBytes] = error.message.match(/, (\d+) sent to it are not taken$/)!;
  assertLess(Number(heldBytes), 24 * 2 ** 20, "the socket holds no more than its bound and one frame");
  await group.close();
  connection.close();
});

Deno.test("ranks that wait for one another name the one that has stopped", async () => {
  const { url, group: connecting } = await startRankZero(3, { timeoutMs: TIMEOUT_MS });
  const second = joinRun(1, 3, url, { timeoutMs: TIMEOUT_MS });
  const rogues = await joinAsRogue(url, 3);
  const groups = await Promise.all([connecting, second]);
  const [first, other] = await Promise.all([
    assertRejects(() => groups[0].recv(1, "from 1"), PeerError),
    assertRejects(() => groups[1].recv(2, "from 2"), PeerError, `Rank 2 stopped answering during recv "from 2"`),
  ]);
  assertEquals([first.kind, first.peer, first.origin], ["aborted", 1, 2]);
  assertEquals(first.message, `Rank 1 aborted the run during recv "from 1" at step 0: ${other.message}`);
  for (const { socket } of rogues) socket.close();
  await Promise.all(groups.map((group) => group.close()));
  await Promise.all(rogues.map(({ closed }) => closed));
});
