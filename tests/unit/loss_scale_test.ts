import { assertEquals, assertThrows } from "@std/assert";
import { GROWTH_INTERVAL, INITIAL_LOSS_SCALE, LossScale } from "@mst/core";

Deno.test("the loss scale halves where gradients are not finite, and counts the steps", () => {
  const scale = new LossScale();
  assertEquals(scale.state, { scale: 65536, goodSteps: 0, skippedSteps: 0 });
  scale.update(true);
  scale.update(false);
  assertEquals(scale.state, { scale: 32768, goodSteps: 0, skippedSteps: 1 });
  scale.update(false);
  assertEquals(scale.state, { scale: 16384, goodSteps: 0, skippedSteps: 2 });
});

Deno.test("the loss scale doubles after 2,000 good steps, counted anew after an overflow", () => {
  const scale = new LossScale();
  for (let step = 0; step < GROWTH_INTERVAL - 1; step++) scale.update(true);
  assertEquals(scale.state.scale, INITIAL_LOSS_SCALE);
  scale.update(false);
  for (let step = 0; step < GROWTH_INTERVAL - 1; step++) scale.update(true);
  assertEquals(scale.state, { scale: INITIAL_LOSS_SCALE / 2, goodSteps: GROWTH_INTERVAL - 1, skippedSteps: 1 });
  scale.update(true);
  assertEquals(scale.state, { scale: INITIAL_LOSS_SCALE, goodSteps: 0, skippedSteps: 1 });
});

Deno.test("the loss scale goes on where another left off, and does not fall below 1", () => {
  const scale = new LossScale({ scale: 1, goodSteps: GROWTH_INTERVAL - 1, skippedSteps: 3 });
  assertThrows(() => scale.update(false), RangeError, "not finite at a loss scale of 1");
  scale.update(true);
  assertEquals(scale.state, { scale: 2, goodSteps: 0, skippedSteps: 3 });
});
