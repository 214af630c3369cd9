import { assert, assertEquals, assertGreater, assertLess, assertRejects } from "@std/assert";
import { PeerError } from "../../packages/core/transport/errors.ts";
import { measureLinks } from "../../packages/core/transport/link_profile.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import { type LinkConditions, LinkProxy } from "../_support/link_proxy.ts";
import {
  delay,
  joinRun,
  MEETING_MS,
  patternBytes,
  sameBytes,
  startRankZero,
  TRANSPORTS,
  withGroups,
} from "./_groups.ts";

/** Two ranks whose link passes a proxy. */
async function withProxy(
  conditions: LinkConditions,
  body: (groups: ProcessGroup[], proxy: LinkProxy) => Promise<void>,
  { timeoutMs = 5000 }: { timeoutMs?: number } = {},
): Promise<void> {
  const patient = { timeoutMs, rendezvousMs: MEETING_MS };
  const { url, group } = await startRankZero(2, patient);
  const proxy = new LinkProxy(Number(new URL(url).port), conditions);
  try {
    const groups = await Promise.all([group, joinRun(1, 2, `ws://127.0.0.1:${proxy.port}`, patient)]);
    await body(groups, proxy).finally(() => Promise.all(groups.map((group) => group.close())));
  } finally {
    await proxy.close();
  }
}

/** Every rank sends a block to the other and sums an array, twice. */
async function exchange(groups: readonly ProcessGroup[]): Promise<void> {
  for (let round = 0; round < 2; round++) {
    await Promise.all(groups.map(async (group) => {
      const peer = 1 - group.rank;
      const [received] = await Promise.all([
        group.recv(peer, "block"),
        group.send(peer, patternBytes(300_000, group.rank), "block"),
      ]);
      assert(sameBytes(received, patternBytes(300_000, peer)));
      const sum = new Float32Array(5000).fill(group.rank + 1);
      await group.allReduce(sum);
      assertEquals([sum[0], sum[4999]], [3, 3]);
    }));
  }
}

for (const transport of TRANSPORTS) {
  Deno.test(`links over ${transport.name}: each is measured once, by its lower rank`, () =>
    withGroups(transport, 4, async (groups) => {
      const measured = await Promise.all(groups.map(measureLinks));
      const pairs = measured.map((links) => links.map(({ from, to }) => [from, to]));
      assertEquals(pairs, [[[0, 1], [0, 2], [0, 3]], [[1, 2], [1, 3]], [[2, 3]], []]);
      for (const { roundTripMs, bytesPerSecond, bytesPerSecondBack } of measured.flat()) {
        for (const value of [roundTripMs, bytesPerSecond, bytesPerSecondBack]) assert(value > 0 && value < Infinity);
      }
      await Promise.all(groups.map((group) => group.barrier()));
    }));
}

Deno.test("links: one rank has none", () =>
  withGroups(TRANSPORTS[0], 1, async ([group]) => assertEquals(await measureLinks(group), [])));

Deno.test("links: the profile finds the latency and bandwidth that a link has", () =>
  withProxy({ delayMs: 10, bytesPerSecond: 4e6 }, async (groups) => {
    const [[{ roundTripMs, bytesPerSecond, bytesPerSecondBack }]] = await Promise.all(groups.map(measureLinks));
    assertGreater(roundTripMs, 20);
    // Timers and scheduling add to each way; a busy machine adds to both, and takes from the rate.
    assertLess(roundTripMs, 100);
    for (const rate of [bytesPerSecond, bytesPerSecondBack]) assert(rate > 1.5e6 && rate < 5e6, `${rate} bytes/s`);
  }));

const CONDITIONS: Record<string, LinkConditions> = {
  "slow": { bytesPerSecond: 2e6 },
  "far": { delayMs: 50 },
  "uneven": { delayMs: 5, jitterMs: 60 },
  "slow, far and uneven": { delayMs: 20, jitterMs: 20, bytesPerSecond: 3e6 },
};

for (const [name, conditions] of Object.entries(CONDITIONS)) {
  // All is far slower than the timeout, but bytes keep coming.
  Deno.test(`links: ranks exchange over a ${name} link`, () => withProxy(conditions, exchange, { timeoutMs: 400 }));
}

Deno.test("links: a slow link that takes many times the timeout for one message is none that has stopped", () =>
  withProxy({ bytesPerSecond: 1e6 }, async ([zero, one]) => {
    const startMs = performance.now();
    const data = patternBytes(900_000, 1);
    const [received] = await Promise.all([one.recv(0, "block"), zero.send(1, data, "block")]);
    assert(sameBytes(received, data));
    assertGreater(performance.now() - startMs, 600);
  }, { timeoutMs: 150 }));

Deno.test("links: a link that stalls for less than the timeout goes on", () =>
  withProxy({}, async (groups, proxy) => {
    const exchanged = exchange(groups);
    proxy.stall();
    await delay(300);
    proxy.resume();
    await exchanged;
  }, { timeoutMs: 1500 }));

Deno.test("links: a link that passes nothing any more is found by both ranks after the timeout", () =>
  withProxy({}, async (groups, proxy) => {
    await exchange(groups);
    groups.forEach((group) => group.step = 7);
    proxy.stall();
    const startMs = performance.now();
    await Promise.all(groups.map(async (group) => {
      const error = await assertRejects(() => group.recv(1 - group.rank, "block"), PeerError);
      const peer = 1 - group.rank;
      assertEquals(
        error.message,
        `Rank ${peer} stopped answering during recv "block" at step 7: no bytes for 0.3 s, wanted a message`,
      );
      assertEquals([error.kind, error.origin], ["timeout", peer]);
    }));
    assertLess(performance.now() - startMs, 1500);
  }, { timeoutMs: 300 }));

Deno.test("links: a link that is cut ends the run on both sides at once", () =>
  withProxy({}, async (groups, proxy) => {
    await exchange(groups);
    const startMs = performance.now();
    const received = groups.map((group) => assertRejects(() => group.recv(1 - group.rank, "block"), PeerError));
    proxy.cut();
    for (const [rank, { message, kind }] of (await Promise.all(received)).entries()) {
      assertEquals(kind, "closed");
      assert(message.startsWith(`Rank ${1 - rank} left during recv "block" at step 0`), message);
    }
    assertLess(performance.now() - startMs, 1000);
  }));
