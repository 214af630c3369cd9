import { assert, assertEquals, assertGreater, assertRejects, assertThrows } from "@std/assert";
import { tensorFrom, zeros } from "../../packages/core/backend/backend.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import { Tensor } from "../../packages/core/tensor/tensor.ts";

Deno.test("the reference backend says what it is", async () => {
  await using backend = createReferenceBackend();
  assertEquals([backend.name, backend.deviceName, backend.isSoftware], ["reference", "CPU reference", true]);
});

Deno.test("the reference backend books every byte and gives it back", () => {
  const backend = createReferenceBackend();
  const [weights, ids] = [backend.empty([3, 5], "weights"), backend.empty([7], "scratch", "u32")];
  assertEquals([backend.ledger.liveBytes("weights"), backend.ledger.liveBytes("scratch")], [60, 28]);
  ids.free();
  weights.free();
  assertEquals([backend.ledger.liveBytes(), backend.peakReservedBytes], [0, 88]);
});

Deno.test("an allocation that the host refuses is not booked", () => {
  const backend = createReferenceBackend();
  assertThrows(
    () => backend.empty([2 ** 20, 2 ** 20], "scratch"),
    RangeError,
    "Cannot allocate 4398046511104 bytes",
  );
  assertEquals([backend.ledger.liveBytes(), backend.peakReservedBytes], [0, 0]);
});

Deno.test("poison fills fresh tensors so that reading undefined contents shows", async () => {
  const backend = createReferenceBackend({ poison: true });
  using numbers = backend.empty([2], "scratch");
  assertEquals([...await backend.read(numbers)], [NaN, NaN]);
  using ids = backend.empty([1], "scratch", "u32");
  using table = zeros(backend, [4, 1], "scratch");
  using out = backend.empty([1, 1], "scratch");
  assertThrows(() => backend.ops.embedding(ids, table, out), RangeError, `id ${0xdeadbeef}`);
});

Deno.test("write copies the data, and refuses other lengths and element types", async () => {
  const backend = createReferenceBackend();
  const data = Float32Array.of(1, 2);
  using tensor = tensorFrom(backend, data, [2], "scratch");
  data[0] = 9;
  assertEquals([...await backend.read(tensor)], [1, 2]);
  assertThrows(() => backend.write(tensor, new Float32Array(3)), RangeError, "Cannot write 3 elements");
  assertThrows(
    () => backend.write(tensor, new Uint32Array(2)),
    TypeError,
    "Cannot write a Uint32Array to a tensor of f32",
  );
});

Deno.test("read gives the contents of the moment it was called, as a copy", async () => {
  const backend = createReferenceBackend();
  using tensor = tensorFrom(backend, Float32Array.of(1, 2), [2], "scratch");
  const take = backend.readLater([tensor]);
  const reading = backend.read(tensor);
  backend.ops.fill(tensor, 5);
  const values = await reading;
  assertEquals([...values], [1, 2]);
  assertEquals(await take(), [Float32Array.of(1, 2)]);
  values[0] = 7;
  assertEquals((await backend.readAll([tensor, tensor])).map((x) => [...x]), [[5, 5], [5, 5]]);
});

Deno.test("reads fill given arrays, shared memory included", async () => {
  await using backend = createReferenceBackend();
  using x = tensorFrom(backend, Float32Array.of(1, 2, 3), [3], "scratch");
  const shared = new Float32Array(new SharedArrayBuffer(20));
  const [values] = await backend.readAll([x], [shared.subarray(1, 4)]);
  assertEquals([[...values], [...shared]], [[1, 2, 3], [0, 1, 2, 3, 0]]);
  backend.write(x, shared.subarray(0, 3));
  assertEquals(await backend.read(x), Float32Array.of(0, 1, 2));
  await assertRejects(() => backend.readAll([x], [shared]), RangeError, "into 5 elements: it has 3");
});

Deno.test("read lets timers run before it resolves", async () => {
  const backend = createReferenceBackend();
  using tensor = zeros(backend, [1], "scratch");
  let ticks = 0;
  const timer = setInterval(() => ticks++, 0);
  for (let i = 0; i < 20; i++) await backend.read(tensor);
  await backend.sync();
  clearInterval(timer);
  assertGreater(ticks, 5);
});

Deno.test("freed, foreign and u32 tensors cannot be read", async () => {
  const backend = createReferenceBackend();
  const tensor = backend.empty([1], "scratch");
  tensor.free();
  await assertRejects(() => backend.read(tensor), ReferenceError, "freed");
  assertThrows(() => backend.write(tensor, new Float32Array(1)), ReferenceError, "freed");
  using ids = backend.empty([1], "scratch", "u32");
  await assertRejects(() => backend.read(ids), TypeError, "it must hold floats");
  const foreign = new Tensor({ bytes: 4, tag: "scratch", retag: () => {}, release: () => {} }, [1]);
  await assertRejects(() => backend.read(foreign), TypeError, "was not made by a reference backend");
});

Deno.test("profiling adds up wall time per op, longest first, and starts afresh when taken", async () => {
  const backend = createReferenceBackend({ profile: true });
  using big = zeros(backend, [64, 64], "scratch");
  using out = zeros(backend, [64, 64], "scratch");
  for (let i = 0; i < 20; i++) backend.ops.matmul(big, big, out, { transposeB: true });
  backend.flush();
  const profile = await backend.takeProfile();
  assertEquals(profile.map(({ kernel, dispatches }) => [kernel, dispatches]), [["matmul NT", 20], ["fill", 2]]);
  assert(profile[0].totalMs > profile[1].totalMs && profile[1].totalMs >= 0);
  assertEquals(await backend.takeProfile(), []);
});

Deno.test("there is no profile unless profiling is on", async () => {
  const backend = createReferenceBackend();
  using _tensor = zeros(backend, [4], "scratch");
  assertEquals(await backend.takeProfile(), []);
});
