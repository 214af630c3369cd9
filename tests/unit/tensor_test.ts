import { assert, assertEquals, assertThrows } from "@std/assert";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import { elementCount, sameShape } from "../../packages/core/tensor/shape.ts";

Deno.test("elementCount multiplies dims and refuses what is no dim", () => {
  assertEquals([elementCount([]), elementCount([3, 4]), elementCount([3, 0])], [1, 12, 0]);
  for (const dim of [-1, 1.5, NaN, Infinity]) assertThrows(() => elementCount([2, dim]), RangeError, `dim ${dim}`);
});

Deno.test("sameShape compares dim by dim", () => {
  assert(sameShape([2, 3], [2, 3]));
  assert(!sameShape([2, 3], [3, 2]));
  assert(!sameShape([2, 3], [2, 3, 1]));
  assert(!sameShape([], [1]));
});

Deno.test("a tensor tells its size, bytes and whether it is freed", () => {
  const tensor = createReferenceBackend().empty([2, 3], "weights");
  assertEquals([tensor.size, tensor.bytes, tensor.freed, tensor.dtype], [6, 24, false, "f32"]);
  tensor.free();
  assertEquals(tensor.freed, true);
});

Deno.test("a tensor is freed exactly once", () => {
  const tensor = createReferenceBackend().empty([2, 3], "weights");
  tensor.free();
  assertThrows(() => tensor.free(), ReferenceError, "Cannot use a freed weights tensor of shape [2,3]");
  for (
    const use of [() => tensor.share(), () => tensor.rows(0, 1), () => tensor.elements(0, 1), () => tensor.reshape([6])]
  ) {
    assertThrows(use, ReferenceError, "freed");
  }
});

Deno.test("memory goes back with the last handle, in whatever order handles are freed", () => {
  const backend = createReferenceBackend();
  const whole = backend.empty([4, 2], "activations");
  const rows = whole.rows(1, 3);
  const flat = rows.reshape([4]);
  assertEquals([rows.shape, rows.offset, flat.shape, flat.offset], [[2, 2], 2, [4], 2]);
  assertEquals(backend.ledger.liveBytes(), 32, "views take no memory");
  whole.free();
  flat.free();
  assertEquals(backend.ledger.liveBytes(), 32);
  assertThrows(() => whole.share(), ReferenceError);
  rows.free();
  assertEquals(backend.ledger.liveBytes(), 0);
});

Deno.test("a view of rows lies where the rows are", async () => {
  const backend = createReferenceBackend();
  using whole = backend.empty([3, 2], "activations");
  backend.write(whole, Float32Array.of(1, 2, 3, 4, 5, 6));
  using tail = whole.rows(1, 3);
  using last = tail.rows(1, 2);
  assertEquals([...await backend.read(last)], [5, 6]);
  backend.write(last, Float32Array.of(7, 8));
  assertEquals([...await backend.read(whole)], [1, 2, 3, 4, 7, 8]);
});

Deno.test("elements of a view are those of its rows, one after the other", async () => {
  const backend = createReferenceBackend();
  using whole = backend.empty([3, 2], "activations");
  backend.write(whole, Float32Array.of(1, 2, 3, 4, 5, 6));
  using tail = whole.rows(1, 3);
  using middle = tail.elements(1, 3);
  assertEquals([middle.shape, [...await backend.read(middle)]], [[2], [4, 5]]);
});

Deno.test("views beyond the tensor are refused", () => {
  using tensor = createReferenceBackend().empty([3, 2], "activations");
  for (const [start, end] of [[-1, 2], [2, 1], [0, 4], [NaN, 2], [0, NaN]]) {
    assertThrows(() => tensor.rows(start, end), RangeError, `rows ${start} to ${end}`);
  }
  for (const [start, end] of [[-1, 2], [2, 1], [0, 7], [NaN, 2], [0, NaN]]) {
    assertThrows(() => tensor.elements(start, end), RangeError, `elements ${start} to ${end}`);
  }
  assertThrows(() => tensor.reshape([5]), RangeError, "Cannot reshape [3,2] to [5]");
  using empty = tensor.rows(3, 3);
  assertEquals(empty.shape, [0, 2]);
});

Deno.test("retag moves bytes in the ledger, also through a view", () => {
  const backend = createReferenceBackend();
  using tensor = backend.empty([4], "activations");
  using view = tensor.rows(0, 1);
  view.storage.retag("checkpoints");
  assertEquals(tensor.storage.tag, "checkpoints");
  assertEquals([backend.ledger.liveBytes("activations"), backend.ledger.liveBytes("checkpoints")], [0, 16]);
});

Deno.test("a scope frees what it owns, latest first", () => {
  const freed: string[] = [];
  const item = (name: string) => ({ free: () => void freed.push(name) });
  const kept = item("kept");
  {
    using scope = new Scope();
    scope.own(item("first"));
    const early = scope.own(item("early"));
    scope.own(kept);
    scope.own(item("last"));
    scope.free(early);
    assertEquals(scope.release(kept), kept);
  }
  assertEquals(freed, ["early", "last", "first"]);
});

Deno.test("a scope frees what it owns when an error is thrown", () => {
  const backend = createReferenceBackend();
  assertThrows(
    () => {
      using scope = new Scope();
      scope.own(backend.empty([8], "scratch"));
      throw new TypeError("stop");
    },
    TypeError,
    "stop",
  );
  assertEquals(backend.ledger.liveBytes(), 0);
});

Deno.test("a scope refuses to release what it does not own", () => {
  using scope = new Scope();
  using tensor = createReferenceBackend().empty([1], "scratch");
  assertThrows(() => scope.release(tensor), ReferenceError, "does not own");
  scope.own(tensor);
  scope.release(tensor);
  assertThrows(() => scope.release(tensor), ReferenceError, "does not own");
});
