import { assertEquals, assertRejects } from "@std/assert";
import { OverlapClock } from "@mst/core";

/** A clock that stands still until told otherwise. */
function createClock() {
  let nowMs = 0;
  return { clock: new OverlapClock(() => nowMs), advance: (ms: number) => nowMs += ms };
}

Deno.test("only the part of an exchange without device work beside it is exposed", async () => {
  const { clock, advance } = createClock();
  const exchange = Promise.withResolvers<void>();
  const work = Promise.withResolvers<void>();
  advance(5); // neither
  const done = clock.exchange(() => exchange.promise);
  advance(10); // exchange alone
  clock.deviceWork(work.promise);
  advance(20); // both
  work.resolve();
  await work.promise;
  await Promise.resolve();
  advance(40); // exchange alone
  exchange.resolve();
  await done;
  advance(80); // neither
  assertEquals(clock.take(), { communicationMs: 70, exposedMs: 50 });
  assertEquals(clock.take(), { communicationMs: 0, exposedMs: 0 });
});

Deno.test("exchanges at the same time count once, and failed ones end", async () => {
  const { clock, advance } = createClock();
  const first = Promise.withResolvers<void>();
  const second = Promise.withResolvers<void>();
  const doneFirst = clock.exchange(() => first.promise);
  const doneSecond = clock.exchange(() => second.promise);
  advance(10);
  first.reject(new Error("peer gone"));
  await assertRejects(() => doneFirst, Error, "peer gone");
  advance(10);
  second.resolve();
  await doneSecond;
  advance(10);
  assertEquals(clock.take(), { communicationMs: 20, exposedMs: 20 });
});
