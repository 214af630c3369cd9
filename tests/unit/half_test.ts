import { assertEquals, assertThrows } from "@std/assert";
import { tensorFrom } from "../../packages/core/backend/backend.ts";
import type { Backend } from "../../packages/core/backend/backend.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import { addHalves, fromHalfBits, toHalfBits } from "../../packages/core/tensor/half.ts";
import { gpuTest } from "../_support/gpu.ts";

/** Ties to even above and below, the largest numbers, what overflows, the smallest numbers, infinities, no number. */
const CASES = [1 + 2 ** -11, 1 + 3 * 2 ** -11, 65519, 65520, -1e6, 2 ** -24, 2 ** -25 * 1.5, -Infinity, NaN, -0];

Deno.test("halves are rounded to the nearest, ties to even", () => {
  const bits = toHalfBits(Float32Array.from(CASES), "f16");
  assertEquals([...bits], [0x3c00, 0x3c02, 0x7bff, 0x7c00, 0xfc00, 1, 1, 0xfc00, 0x7e00, 0x8000]);
  const ties = toHalfBits(new Float32Array([1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38, -Infinity, NaN, -0]), "bf16");
  assertEquals([...ties], [0x3f80, 0x3f82, 0x7f80, 0xff80, 0x7fc0, 0x8000]);
});

Deno.test("halves survive the way through f32", () => {
  for (const dtype of ["f16", "bf16"] as const) {
    const every = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const values = fromHalfBits(every, dtype);
    const back = toHalfBits(values, dtype);
    every.forEach((bits, i) => Number.isNaN(values[i]) || assertEquals(back[i], bits));
  }
});

/** Writes, reads and views of tensors of 16 bits; the same on every backend. */
async function checkHalfTensors(backend: Backend): Promise<void> {
  const values = Float32Array.from({ length: 24 }, (_, i) => Math.fround(1 / (i + 1)));
  for (const dtype of ["f16", "bf16"] as const) {
    using x = tensorFrom(backend, values, [4, 6], "weights", dtype);
    assertEquals([x.bytes, backend.ledger.liveBytes()], [48, 48]);
    const rounded = fromHalfBits(toHalfBits(values, dtype), dtype);
    using rows = x.rows(1, 3);
    using words = rows.words();
    assertEquals([words.shape, words.dtype, words.bytes], [[2, 3], "f32", 24]);
    const into = [new Float32Array(12), new Float32Array(6)];
    const order: number[] = [];
    await backend.readAll([rows, words], into, (index) => order.push(index));
    assertEquals([into[0], order], [rounded.slice(6, 18), [0, 1]]);
    assertEquals(new Uint16Array(into[1].buffer), toHalfBits(values, dtype).slice(6, 18));
    // Bytes go back as they came, bits too.
    using first = x.rows(0, 2);
    using firstWords = first.words();
    backend.write(firstWords, into[1]);
    backend.write(rows, toHalfBits(values, dtype).slice(0, 12));
    const expected = [...rounded.slice(6, 12), ...rounded.slice(0, 12), ...rounded.slice(18)];
    assertEquals(await backend.read(x), Float32Array.from(expected));
    assertThrows(() => backend.write(x, new Uint32Array(24)), TypeError);
    assertThrows(() => backend.write(x, new Uint16Array(23)), RangeError);
    assertThrows(() => backend.empty([4, 3], "weights", dtype), RangeError, "the last dim must be even");
    assertThrows(() => backend.empty([], "weights", dtype), RangeError, "the last dim must be even");
    assertThrows(() => x.elements(1, 3), RangeError, "at element 1: it must be even");
    assertEquals(backend.ledger.liveBytes(), 48);
  }
  using ids = tensorFrom(backend, new Uint32Array(2), [2], "scratch");
  assertThrows(() => backend.write(ids, new Float32Array(2)), TypeError);
  using floats = tensorFrom(backend, new Float32Array(2), [2], "scratch");
  assertThrows(() => backend.write(floats, new Uint16Array(2)), TypeError);
}

Deno.test("tensors of 16 bits on the reference", async () => {
  await using backend = createReferenceBackend({ poison: true });
  await checkHalfTensors(backend);
  assertEquals(backend.ledger.liveBytes(), 0);
});

gpuTest("tensors of 16 bits on WebGPU", checkHalfTensors);

Deno.test("an op rounds once, at its end, and refuses other element types", async () => {
  await using backend = createReferenceBackend();
  using x = tensorFrom(backend, new Float32Array([1, 2048]), [2], "scratch", "f16");
  using y = tensorFrom(backend, new Float32Array([2 ** -11 * 1.5, 0.75]), [2], "scratch");
  backend.ops.add(y, x);
  assertEquals([...await backend.read(x)], [1 + 2 ** -10, 2048]);
  using words = y.words();
  using floats = backend.empty([4], "scratch");
  assertThrows(() => backend.ops.add(words, y), RangeError, "out must not overlap x");
  assertThrows(() => backend.ops.add(x, floats), RangeError, "out must have 2 elements");
  using ids = tensorFrom(backend, new Uint32Array(2), [2], "scratch");
  assertThrows(() => backend.ops.cast(ids, y), RangeError, "x must be f32 or f16 or bf16, not u32");
});

Deno.test("halves in words add up, rounded to the nearest", () => {
  const wordsOf = (bits: Uint16Array<ArrayBuffer>) => new Float32Array(bits.buffer);
  const [left, right] = [[1, -2, 65504, 2 ** -24], [2 ** -11, 2, 32, 2 ** -24]].map((values) =>
    toHalfBits(Float32Array.from(values), "f16")
  );
  addHalves(wordsOf(left), wordsOf(right), wordsOf(left));
  assertEquals([...fromHalfBits(left, "f16")], [1, 0, Infinity, 2 ** -23]);
  assertEquals([...fromHalfBits(right, "f16")], [2 ** -11, 2, 32, 2 ** -24]);
});
