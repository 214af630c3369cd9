import { assertEquals, assertRejects } from "@std/assert";
import { ExchangeClock } from "@mst/core";

/** A clock that stands still until told otherwise. */
function createClock() {
  let nowMs = 0;
  return { clock: new ExchangeClock(() => nowMs), advance: (ms: number) => nowMs += ms };
}

Deno.test("the clock counts the time in which an exchange is under way", async () => {
  const { clock, advance } = createClock();
  const exchange = Promise.withResolvers<string>();
  advance(5);
  const done = clock.exchange(() => exchange.promise);
  advance(10);
  assertEquals(clock.takeMs(), 10);
  advance(20);
  exchange.resolve("sent");
  assertEquals(await done, "sent");
  advance(40);
  assertEquals(clock.takeMs(), 20);
  assertEquals(clock.takeMs(), 0);
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
  assertEquals(clock.takeMs(), 20);
});
