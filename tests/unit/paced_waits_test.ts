import { assertEquals, assertLess } from "@std/assert";
import { setImmediate } from "node:timers";
import { PacedWaits } from "../../packages/core/backend/webgpu/paced_waits.ts";

/** Turns of the event loop until a promise is settled. */
async function turnsUntil(pending: Promise<unknown>): Promise<number> {
  let turns = 0;
  let isOver = false;
  const turn = () => {
    turns++;
    if (!isOver) setImmediate(turn);
  };
  setImmediate(turn);
  await pending.finally(() => isOver = true);
  return turns;
}

function after(ms: number): Promise<string> {
  return new Promise((resolve) => setTimeout(() => resolve("done"), ms));
}

Deno.test("the event loop turns slowly while nothing happens, however many wait", async () => {
  const freely = await turnsUntil(after(300));
  const waits = new PacedWaits();
  for (const count of [1, 8]) {
    const pending = Array.from({ length: count }, () => waits.waitFor(after(300)));
    // About one a millisecond, after some that follow closely.
    assertLess(await turnsUntil(Promise.all(pending)), 450);
  }
  assertLess(450, freely, "a loop that is not slowed down turns more often");
});

Deno.test("what is waited for comes through, also an error, and others wait again later", async () => {
  const waits = new PacedWaits();
  assertEquals(await waits.waitFor(after(1)), "done");
  const error = await waits.waitFor(Promise.reject(new Error("lost"))).catch(({ message }) => message);
  assertEquals(error, "lost");
  assertEquals(await Promise.all([waits.waitFor(after(5)), waits.waitFor(after(1))]), ["done", "done"]);
});
