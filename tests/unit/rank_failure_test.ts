import { assert, assertEquals, assertFalse, assertStringIncludes } from "@std/assert";
import { PeerError } from "@mst/core";
import { describeFailure, type RankRecord } from "../../packages/bench/launcher/rank_failure.ts";
import { parseRankEvent, type RankResult } from "../../packages/bench/launcher/rank_protocol.ts";
import { toRankFailure } from "../../packages/bench/rank/failure.ts";

const DONE = {} as RankResult;

function record(rank: number, values: Partial<RankRecord> = {}): RankRecord {
  return { rank, steps: [], ...values };
}

function seen(rank: number, origin: number, atMs: number): RankRecord {
  const failure = { name: "PeerError", message: `Rank ${origin} left`, outOfMemory: false };
  return record(rank, { failure: { ...failure, peer: { origin, kind: "closed" } }, failedAtMs: atMs });
}

const TAILS = [["zero"], ["one"], ["two"]];

Deno.test("a rank's own error explains what its peers saw earlier", () => {
  const failure = { name: "RangeError", message: "too much", outOfMemory: false };
  const error = describeFailure([seen(0, 2, 1), seen(1, 2, 2), record(2, { failure, failedAtMs: 3 })], TAILS);
  assertEquals([error.rank, error.message], [2, "rank 2 failed: RangeError: too much"]);
  assertEquals(error.stderrTail, []);
});

Deno.test("a death explains what its peers saw, with what it said last", () => {
  const exit = { code: 137, signal: "SIGKILL" } as const;
  const error = describeFailure([seen(0, 1, 1), record(1, { exit, endedAtMs: 5 }), seen(2, 1, 2)], TAILS);
  assertEquals(error.rank, 1);
  assertStringIncludes(error.message, "rank 1 failed: its process was ended by SIGKILL");
  assertEquals(error.stderrTail, ["one"]);
  const crash = describeFailure([record(0, { exit: { code: 3, signal: null }, endedAtMs: 1 })], TAILS);
  assertEquals(crash.message, "rank 0 failed: its process ended with exit code 3");
});

Deno.test("the first of several failures is the one", () => {
  const failure = { name: "Error", message: "bug", outOfMemory: false };
  const records = [
    record(0, { failure, failedAtMs: 9 }),
    record(1, { exit: { code: 1, signal: null }, endedAtMs: 7 }),
    record(2, { failure, failedAtMs: 8 }),
  ];
  assertEquals(describeFailure(records, TAILS).rank, 1);
  assertEquals(describeFailure([record(0, { result: DONE }), records[2]], TAILS.slice(1)).rank, 2);
});

Deno.test("a rank that answers nobody is known by what its peers say", () => {
  const error = describeFailure([seen(0, 1, 4), record(1), seen(2, 1, 3)], TAILS);
  assertEquals([error.rank, error.message], [1, "rank 1 failed: Rank 1 left (as rank 2 saw it)"]);
  const stopped = describeFailure([record(0, { wasStopped: true })], TAILS);
  assertStringIncludes(stopped.message, "rank 0 failed: its process was stopped");
});

Deno.test("running out of memory is recognised, and failures of peers are told apart", () => {
  for (
    const message of [
      "Cannot allocate a tensor: out of memory",
      "Array buffer allocation failed",
      "Invalid typed array length: 99999999999",
      "Cannot allocate it: 5 bytes are more than the largest buffer of 4 bytes",
    ]
  ) assert(toRankFailure(new RangeError(message)).outOfMemory, message);
  assertFalse(toRankFailure(new RangeError("Cannot split 3 tokens")).outOfMemory);
  const peer = new PeerError({ peer: 1, kind: "timeout", detail: "silence", origin: 2 }, { name: "recv", step: 3 });
  assertEquals(toRankFailure(peer).peer, { origin: 2, kind: "timeout" });
  assertEquals(toRankFailure("thrown").message, "thrown");
});

Deno.test("lines that are no events are none", () => {
  assertEquals(parseRankEvent('{"type":"listening","url":"ws://a"}'), { type: "listening", url: "ws://a" });
  assertEquals(parseRankEvent("a driver's chatter"), undefined);
  assertEquals(parseRankEvent('{"type":'), undefined);
});

Deno.test("a rank that a peer refuses is the one that failed", () => {
  const message = "Rank 0 refused this rank: the token is another";
  const failure = {
    name: "PeerError",
    message,
    outOfMemory: false,
    peer: { origin: 0, kind: "unauthorized" },
  } as const;
  const error = describeFailure([record(2, { failure, failedAtMs: 1 })], TAILS);
  assertEquals([error.rank, error.message], [2, `rank 2 failed: ${message}`]);
});
