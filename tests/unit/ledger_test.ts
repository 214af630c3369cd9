import { assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { createReferenceBackend, MemoryBudgetError } from "@mst/core";
import { Ledger, zeroBytes } from "../../packages/core/memory/ledger.ts";

Deno.test("the ledger counts live bytes by tag", () => {
  const ledger = new Ledger();
  ledger.allocate("weights", 100);
  ledger.allocate("scratch", 30);
  ledger.allocate("scratch", 5);
  ledger.release("scratch", 30);
  assertEquals([ledger.liveBytes(), ledger.liveBytes("weights"), ledger.liveBytes("scratch")], [105, 100, 5]);
  assertEquals(ledger.live(), { ...zeroBytes(), weights: 100, scratch: 5 });
});

Deno.test("the peak is the highest total and what it was made of, not the sum of the highest of each tag", () => {
  const ledger = new Ledger();
  ledger.allocate("activations", 80);
  ledger.release("activations", 80);
  ledger.allocate("weights", 40);
  ledger.allocate("scratch", 50);
  ledger.release("scratch", 50);
  ledger.allocate("gradients", 20);
  assertEquals(ledger.peak(), { totalBytes: 90, byTag: { ...zeroBytes(), weights: 40, scratch: 50 } });
  assertEquals(ledger.highest(), { ...zeroBytes(), activations: 80, weights: 40, scratch: 50, gradients: 20 });
});

Deno.test("the first moment of an equal peak is kept", () => {
  const ledger = new Ledger();
  ledger.allocate("scratch", 10);
  ledger.release("scratch", 10);
  ledger.allocate("weights", 10);
  assertEquals(ledger.peak().byTag, { ...zeroBytes(), scratch: 10 });
});

Deno.test("retag moves live bytes and leaves total and peak", () => {
  const ledger = new Ledger();
  ledger.allocate("activations", 12);
  ledger.retag("activations", "checkpoints", 12);
  assertEquals(ledger.live(), { ...zeroBytes(), checkpoints: 12 });
  assertEquals(ledger.peak(), { totalBytes: 12, byTag: { ...zeroBytes(), activations: 12 } });
  assertEquals(ledger.highest(), { ...zeroBytes(), activations: 12, checkpoints: 12 });
  ledger.release("checkpoints", 12);
  assertEquals(ledger.liveBytes(), 0);
});

Deno.test("resetPeak starts afresh from what is live", () => {
  const ledger = new Ledger();
  ledger.allocate("weights", 10);
  ledger.allocate("scratch", 90);
  ledger.release("scratch", 90);
  ledger.resetPeak();
  assertEquals(ledger.peak(), { totalBytes: 10, byTag: { ...zeroBytes(), weights: 10 } });
  assertEquals(ledger.highest(), { ...zeroBytes(), weights: 10 });
  ledger.allocate("scratch", 1);
  assertEquals(ledger.peak().totalBytes, 11);
});

Deno.test("what the ledger hands out is a copy", () => {
  const ledger = new Ledger();
  ledger.allocate("weights", 10);
  for (const bytes of [ledger.live(), ledger.highest(), ledger.peak().byTag]) bytes.weights = 999;
  assertEquals([ledger.live().weights, ledger.highest().weights, ledger.peak().byTag.weights], [10, 10, 10]);
});

Deno.test("a budget is kept to the byte, and what exceeds it is refused with the numbers and leaves all as it was", () => {
  const ledger = new Ledger({ budgetBytes: 100 });
  ledger.allocate("weights", 60);
  ledger.allocate("scratch", 40);
  ledger.release("scratch", 40);
  const error = assertThrows(() => ledger.allocate("activations", 41), MemoryBudgetError);
  assertInstanceOf(error, RangeError);
  assertEquals(
    error.message,
    "Cannot allocate 41 bytes for activations beside 60 live bytes: the memory budget is 100 bytes",
  );
  assertEquals([error.wantedBytes, error.liveBytes, error.budgetBytes], [41, 60, 100]);
  assertEquals([ledger.liveBytes(), ledger.peak().totalBytes], [60, 100]);
  ledger.retag("weights", "checkpoints", 60);
  ledger.allocate("activations", 40);
  assertEquals(ledger.liveBytes(), 100);
});

Deno.test("without a budget any number of bytes may be live, and one of no sense is refused", () => {
  assertEquals(new Ledger().budgetBytes, Infinity);
  for (const budgetBytes of [-1, NaN]) {
    assertThrows(() => new Ledger({ budgetBytes }), RangeError, `a memory budget of ${budgetBytes} bytes`);
  }
});

Deno.test("a backend keeps to its budget before the host allocates", async () => {
  await using backend = createReferenceBackend({ memoryBudgetBytes: 40 });
  using _kept = backend.empty([6], "weights");
  assertThrows(() => backend.empty([2 ** 40], "scratch"), MemoryBudgetError, "beside 24 live bytes");
  backend.empty([4], "scratch").free();
  assertEquals(backend.ledger.liveBytes(), 24);
});
