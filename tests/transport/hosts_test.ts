import { assert, assertEquals, assertLess, assertRejects, assertStringIncludes } from "@std/assert";
import type { ConnectOptions } from "../../packages/core/transport/connect_options.ts";
import { PeerError } from "../../packages/core/transport/errors.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import { isThisMachine } from "../../packages/core/transport/reach.ts";
import { connectProcessGroup } from "../../packages/core/transport/rendezvous.ts";
import { makeCertificate } from "../_support/certificate.ts";
import { freePort } from "../_support/free_port.ts";
import { delay, joinRun, patternBytes, sameBytes, startRankZero, TOKEN } from "./_groups.ts";

/** All ranks exchange with all, and leave. */
async function exchangeAndClose(groups: readonly ProcessGroup[]): Promise<void> {
  await Promise.all(groups.map(async (group) => {
    const parts = groups.map(({ rank: to }) => Uint8Array.of(group.rank, to));
    const received = await group.allToAll(parts);
    assertEquals(received, groups.map(({ rank: from }) => Uint8Array.of(from, group.rank)));
    await group.close();
  }));
}

Deno.test("hosts: ranks may come before rank 0, which listens at the given address and port", async () => {
  const port = freePort();
  const rendezvous = `ws://127.0.0.1:${port}`;
  const waiting: string[] = [];
  const early = [1, 2].map((rank) =>
    joinRun(rank, 3, rendezvous, { retry: true, onWaiting: (what) => waiting.push(what) })
  );
  await delay(400);
  assert(waiting.length >= 2, "both have said what they wait for");
  for (const what of waiting) assertStringIncludes(what, `rank 0: nobody answers at ${rendezvous}: `);
  const told: string[] = [];
  const zero = await startRankZero(3, { host: "127.0.0.1", port, onWaiting: (what) => told.push(what) });
  assertEquals(zero.url, rendezvous);
  await exchangeAndClose(await Promise.all([zero.group, ...early]));
  assertEquals(told[0], `ranks 1, 2 to join at ${rendezvous}`);
  assert(/^rank [12] to join at /.test(told[1]), told[1]);
});

Deno.test("hosts: a rank that waits for rank 0 in vain says what it saw, at the timeout", async () => {
  const url = `ws://127.0.0.1:${freePort()}`;
  const startMs = performance.now();
  for (const rank of [1, 2]) {
    const error = await assertRejects(() => joinRun(rank, 3, url, { retry: true, timeoutMs: 200 }), PeerError);
    assertEquals([error.kind, error.origin], ["timeout", 0]);
    assertStringIncludes(error.message, `Rank 0 did not answer during rendezvous at step 0: `);
    assertStringIncludes(error.message, `did not join in 0.25 s: nobody answers at ${url}: `);
  }
  assertLess(performance.now() - startMs, 2000);
});

Deno.test("hosts: a rank that gives up before the others have come says so to rank 0, too", async () => {
  const { url, group } = await startRankZero(3, { rendezvousMs: 10_000 });
  const [zero, one] = await Promise.all([
    assertRejects(() => group, PeerError),
    assertRejects(() => joinRun(1, 3, url, { rendezvousMs: 200 }), PeerError),
  ]);
  const gaveUp = "Rank 0 was not ready during rendezvous at step 0: it still waits for other ranks after 0.25 s";
  assertEquals([one.message, one.kind, one.origin], [gaveUp, "timeout", 0]);
  assertEquals(zero.message, `Rank 1 aborted the run during rendezvous at step 0: ${gaveUp}`);
  assertEquals(zero.origin, 1);
});

Deno.test("hosts: a port that is taken, or an address of another machine, is an error that says so", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const listen = (options: Partial<ConnectOptions>) => () =>
    connectProcessGroup({ rank: 0, size: 2, token: TOKEN, ...options });
  const { port } = taken.addr;
  await assertRejects(listen({ port }), Error, `Cannot listen at 127.0.0.1, port ${port}: Address already in use`);
  await assertRejects(listen({ host: "192.0.2.1" }), Error, "Cannot listen at 192.0.2.1, port 0: ");
});

Deno.test("hosts: a rank that listens at all addresses names the one by which it reaches rank 0", async () => {
  const port = freePort();
  const { url, group } = await startRankZero(3, { host: "0.0.0.0", port });
  assertEquals(url, `ws://127.0.0.1:${port}`);
  const others = [joinRun(1, 3, url, { host: "0.0.0.0" }), joinRun(2, 3, url)];
  await exchangeAndClose(await Promise.all([group, ...others]));
});

Deno.test("hosts: a rendezvous may take longer than a peer may be silent, or less", async () => {
  const patient = { timeoutMs: 100, rendezvousMs: 10_000 };
  const { url, group } = await startRankZero(2, patient);
  await delay(300);
  await exchangeAndClose(await Promise.all([group, joinRun(1, 2, url, patient)]));
  const { group: lonely } = await startRankZero(2, { rendezvousMs: 50 });
  await assertRejects(() => lonely, PeerError, "did not join in 0.05 s");
});

Deno.test("hosts: a rank is known by the address that it advertises", async () => {
  const { url, group } = await startRankZero(2, { advertise: "ws://192.0.2.1:5", timeoutMs: 50 });
  assertEquals(url, "ws://192.0.2.1:5");
  await assertRejects(() => group, PeerError, "1 of 2 ranks (1) did not join");
});

const SETTINGS = { "train.seqTokens": "64", "train.seed": "0", strategy: "ring" };

const DIFFERENCES: readonly [given: Record<string, string>, says: string][] = [
  [{ ...SETTINGS, strategy: "ulysses" }, "it was started with strategy ulysses, and rank 0 with ring"],
  [{ strategy: "ring", "train.seed": "0" }, "it was started with train.seqTokens none, and rank 0 with 64"],
  [{ ...SETTINGS, extra: "1" }, "it was started with extra 1, and rank 0 with none"],
  [{ ...SETTINGS, strategy: "x".repeat(100) }, `it was started with strategy ${"x".repeat(60)}…, and rank 0 with ring`],
  [
    { "train.seqTokens": "32", "train.seed": "1", strategy: "", a: "b" },
    "it was started with train.seqTokens 32, and rank 0 with 64; with train.seed 1, and rank 0 with 0; with strategy , " +
    "and rank 0 with ring; 1 more settings differ",
  ],
];

Deno.test("hosts: a rank started with other settings is refused with their names, and may come again", async () => {
  const told: string[] = [];
  const { url, group } = await startRankZero(2, { settings: SETTINGS, onWaiting: (what) => told.push(what) });
  for (const [settings, says] of DIFFERENCES) {
    const error = await assertRejects(() => joinRun(1, 2, url, { settings, retry: true }), PeerError);
    assertEquals(error.message, `Rank 0 refused this rank during rendezvous at step 0: ${says}`);
    assertEquals(told.at(-1), `rank 1, which was refused: ${says}`);
  }
  await exchangeAndClose(await Promise.all([group, joinRun(1, 2, url, { settings: { ...SETTINGS } })]));
});

Deno.test("hosts: who does not know the token learns nothing of the settings", async () => {
  const { url, group } = await startRankZero(2, { settings: SETTINGS });
  await assertRejects(
    () => joinRun(1, 2, url, { token: "guess" }),
    PeerError,
    "the token is not the token of this run",
  );
  await exchangeAndClose(await Promise.all([group, joinRun(1, 2, url, { settings: SETTINGS })]));
});

Deno.test("hosts: with a certificate all links are encrypted, and only who shows it is trusted", async () => {
  const [tls, other] = await Promise.all([makeCertificate(), makeCertificate()]);
  const { url, group } = await startRankZero(3, { tls });
  assert(url.startsWith("wss://127.0.0.1:"), url);
  const impostor = await assertRejects(() => joinRun(1, 3, url, { tls: other, retry: true }), PeerError);
  assertStringIncludes(impostor.message, `Rank 0 left during rendezvous at step 0: nobody answers at ${url}: `);
  assertStringIncludes(impostor.message, "certificate");
  await assertRejects(() => joinRun(1, 3, url.replace("wss:", "ws:")), PeerError, "nobody answers at ws://");
  await exchangeAndClose(await Promise.all([group, joinRun(1, 3, url, { tls }), joinRun(2, 3, url, { tls })]));
});

Deno.test("hosts: long and short messages come whole over encrypted links, in order", async () => {
  const tls = await makeCertificate();
  const { url, group } = await startRankZero(2, { tls });
  const groups = await Promise.all([group, joinRun(1, 2, url, { tls })]);
  const lengths = [0, 1, 1500, 70_000, 2 ** 18, 2 ** 18 + 1, 3 * 2 ** 20, ...new Array(100).fill(2000)];
  await Promise.all(groups.map(async (group) => {
    const peer = 1 - group.rank;
    const sent = lengths.map((length, i) => group.send(peer, patternBytes(length, i + group.rank), "block"));
    for (const [i, length] of lengths.entries()) {
      assert(sameBytes(await group.recv(peer, "block"), patternBytes(length, i + peer)), `message ${i}`);
    }
    await Promise.all(sent);
    await group.close();
  }));
});

Deno.test("hosts: a certificate for another address is refused", async () => {
  const tls = await makeCertificate(["192.0.2.1"]);
  const { url, group } = await startRankZero(2, { tls, timeoutMs: 500 });
  await assertRejects(() => joinRun(1, 2, url, { tls }), PeerError, "certificate");
  await assertRejects(() => group, PeerError, "did not join");
});

Deno.test("hosts: options that make no sense are refused at once", async () => {
  const tls = { certificate: "", key: "" };
  const connect = (options: Partial<ConnectOptions>) => () =>
    connectProcessGroup({ rank: 0, size: 2, token: TOKEN, ...options });
  await assertRejects(connect({ rendezvousMs: 0 }), RangeError, "Cannot wait for 0 ms");
  await assertRejects(connect({ port: 65536 }), RangeError, "Cannot listen at port 65536: wanted 0 to 65535");
  await assertRejects(connect({ port: 0.5 }), RangeError, "Cannot listen at port 0.5");
  await assertRejects(connect({ advertise: "here" }), TypeError, "Cannot advertise here: wanted a ws:// address");
  await assertRejects(
    connect({ rank: 1, rendezvous: "ws://a", tls }),
    TypeError,
    "wanted the wss:// address of rank 0",
  );
  await assertRejects(connect({ rank: 1, rendezvous: "wss://a" }), TypeError, "wanted the ws:// address of rank 0");
  await assertRejects(connect({ tls }), Error, "Cannot listen at 127.0.0.1, port 0: ");
});

Deno.test("hosts: a rank knows which addresses are those of its own machine", async () => {
  const own = Deno.networkInterfaces().map(({ address }) => address).filter((address) => !address.includes("%"));
  for (const address of [...own, "127.0.0.7", "localhost"]) {
    const host = address.includes(":") ? `[${address}]` : address;
    assert(await isThisMachine(`ws://${host}:1`), address);
  }
  for (const address of ["192.0.2.1", "[2001:db8::1]"]) assert(!await isThisMachine(`wss://${address}:1`), address);
  assert(await isThisMachine("ws://no.such.host.invalid:1"), "what cannot be told is taken to be this machine");
});
