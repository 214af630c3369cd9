/** Values of the reference's ops on cases small enough to compute by hand. Attention has a file of its own. */

import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import type { Backend } from "../../packages/core/backend/backend.ts";
import { groupById, IGNORED_LABEL, OTHER_PART_LABEL, PARTIAL_SUMS } from "../../packages/core/backend/ops.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { assertClose } from "../_support/compare.ts";
import { dot } from "../_support/gradient_check.ts";
import { Random } from "../_support/random.ts";
import { TestTensors } from "../_support/test_tensors.ts";

/** Computed in f64 and rounded to f32 once: half a unit in the last place, 6e-8 of the number. */
const ROUNDED_ONCE = { relative: 6e-8 };

opTest("matmul multiplies in all transpositions", async ({ ops }, t, read) => {
  const [a, aT] = [t.from([1, 2, 3, 4, 5, 6], [2, 3]), t.from([1, 4, 2, 5, 3, 6], [3, 2])];
  const [b, bT] = [t.from([7, 8, 9, 10, 11, 12], [3, 2]), t.from([7, 9, 11, 8, 10, 12], [2, 3])];
  const out = t.empty([2, 2]);
  const product = [58, 64, 139, 154];
  ops.matmul(a, b, out);
  assertEquals(await read(out), product);
  ops.matmul(a, bT, out, { transposeB: true });
  assertEquals(await read(out), product);
  ops.matmul(aT, b, out, { transposeA: true, accumulate: true });
  assertEquals(await read(out), product.map((x) => 2 * x));
});

opTest("matmul agrees with dot products for ragged sizes", async ({ ops }, t) => {
  const random = new Random(1);
  for (const [m, n, k] of [[1, 1, 1], [4, 4, 4], [5, 3, 9], [33, 70, 20], [3, 130, 2000], [2, 5, 40000]]) {
    const [rows, columns] = [random.normals(m * k), random.normals(n * k)];
    const out = t.empty([m, n]);
    ops.matmul(t.from(rows, [m, k]), t.from(columns, [n, k]), out, { transposeB: true });
    const expected = Float32Array.from({ length: m * n }, (_, at) => {
      const [i, j] = [Math.floor(at / n), at % n];
      return dot(rows.subarray(i * k, (i + 1) * k), columns.subarray(j * k, (j + 1) * k));
    });
    assertClose(await t.backend.read(out), expected, { ...ROUNDED_ONCE, what: `[${m}, ${k}] · [${k}, ${n}]` });
  }
});

opTest("matmul over an inner dim of 0 gives zeros, and adds nothing", async ({ ops }, t, read) => {
  const out = t.from([1, 2], [1, 2]);
  ops.matmul(t.empty([1, 0]), t.empty([0, 2]), out, { accumulate: true });
  assertEquals(await read(out), [1, 2]);
  ops.matmul(t.empty([1, 0]), t.empty([0, 2]), out);
  assertEquals(await read(out), [0, 0]);
});

opTest("embedding looks rows up and adds gradients to them", async ({ ops }, t, read) => {
  const [out, table] = [t.empty([3, 2]), t.from([1, 2, 3, 4, 5, 6], [3, 2])];
  ops.embedding(t.ids(2, 0, 2), table, out);
  assertEquals(await read(out), [5, 6, 1, 2, 5, 6]);
  const { order, segments } = groupById(Uint32Array.of(2, 0, 2));
  const dOut = t.from([1, 10, 2, 20, 3, 30], [3, 2]);
  ops.embeddingBackward(t.from(order, [3]), t.from(segments, [2, 3]), dOut, table);
  assertEquals(await read(table), [3, 22, 3, 4, 9, 46]);
  assertThrows(() => ops.embedding(t.ids(1, 3, 0), table, out), RangeError, "id 3 of row 1");
});

Deno.test("groupById sorts rows by id and keeps their order", () => {
  const { order, segments } = groupById(Uint32Array.of(7, 3, 7, 0xffffffff, 3, 7));
  assertEquals([...order], [1, 4, 0, 2, 5, 3]);
  assertEquals([...segments], [3, 0, 2, 7, 2, 5, 0xffffffff, 5, 6]);
  assertEquals(groupById(new Uint32Array(0)), { order: new Uint32Array(0), segments: new Uint32Array(0) });
});

opTest("rmsNorm divides by the root of the mean square", async ({ ops }, t, read) => {
  const [out, rstd] = [t.empty([2, 2]), t.empty([2])];
  ops.rmsNorm(t.from([3, 4, 0, 0], [2, 2]), t.from([2, 10], [2]), out, rstd, 0.25);
  assertClose(await read(rstd), [1 / Math.sqrt(12.75), 2], { ...ROUNDED_ONCE, what: "rstd" });
  assertClose(await read(out), [6 / Math.sqrt(12.75), 40 / Math.sqrt(12.75), 0, 0], { ...ROUNDED_ONCE, what: "out" });
});

opTest("copyColumns copies or adds a block of columns and leaves the others", async ({ ops }, t, read) => {
  const [x, out] = [t.from([1, 2, 3, 4, 5, 6], [2, 3]), t.from([10, 20, 30, 40, 50, 60, 70, 80], [2, 4])];
  ops.copyColumns(x, 1, out, 2, 2);
  assertEquals(await read(out), [10, 20, 2, 3, 50, 60, 5, 6]);
  ops.copyColumns(x, 0, out, 1, 1, { accumulate: true });
  assertEquals(await read(out), [10, 21, 2, 3, 50, 64, 5, 6]);
});

opTest("rope turns pairs of halves by the angle of their token, and back", async ({ ops }, t, read) => {
  const values = [1, 2, 3, 4, 5, 6, 7, 8];
  const x = t.from(values, [2, 4]);
  // Two tokens, one head of dim 4: a quarter turn of the first pair at token 1 only.
  const table = t.from([1, 1, 0, 0, 0, 1, 1, 0], [2, 4]);
  ops.rope(x, table, 1);
  assertEquals(await read(x), [1, 2, 3, 4, -7, 6, 5, 8]);
  ops.rope(x, table, 1, { inverse: true });
  assertEquals(await read(x), values);
  const batch = t.from([...values, ...values], [4, 4]);
  ops.rope(batch, table, 1);
  assertEquals(await read(batch), [1, 2, 3, 4, -7, 6, 5, 8, 1, 2, 3, 4, -7, 6, 5, 8]);
});

opTest("gatedActivation is silu(gate) · up, also in place", async ({ ops }, t, read) => {
  const [gate, up] = [t.from([0, 1, -20], [1, 3]), t.from([5, 2, 1], [1, 3])];
  const expected = [0, 2 / (1 + Math.exp(-1)), -20 / (1 + Math.exp(20))];
  const out = t.empty([1, 3]);
  ops.gatedActivation(gate, up, out);
  assertClose(await read(out), expected, { ...ROUNDED_ONCE, what: "out" });
  ops.gatedActivation(gate, up, gate);
  assertClose(await read(gate), expected, { ...ROUNDED_ONCE, what: "in place" });
});

opTest("crossEntropy gives losses and gradients, zeros for ignored labels", async ({ ops }, t, read) => {
  const logits = t.from([0, 0, Math.log(2), 9, 9, 9, 1000, 0, -1000], [3, 3]);
  const losses = t.empty([3]);
  ops.crossEntropy(logits, t.ids(2, IGNORED_LABEL, 1), losses, 0.5);
  assertClose(await read(losses), [Math.log(2), 0, 1000], { relative: 2e-7, what: "losses" });
  const gradient = [0.125, 0.125, -0.25, 0, 0, 0, 0.5, -0.5, 0];
  assertClose(await read(logits), gradient, { absolute: 3e-8, what: "gradient" });
  assertThrows(() => ops.crossEntropy(logits, t.ids(0, 3, 0), losses, 1), RangeError, "label 3 of row 1");
});

opTest("crossEntropy of only ignored labels clears even logits that are not finite", async ({ ops }, t, read) => {
  const [logits, losses] = [t.from([NaN, Infinity, 1, 2], [2, 2]), t.empty([2])];
  ops.crossEntropy(logits, t.ids(IGNORED_LABEL, IGNORED_LABEL), losses, 1);
  assertEquals([await read(logits), await read(losses)], [[0, 0, 0, 0], [0, 0]]);
});

opTest("logSumExp and crossEntropyGradient over parts of a vocabulary are crossEntropy over all of it", async (
  { ops },
  t,
  read,
) => {
  const rows = [[0.5, -1, 2, 3, 1], [4, 4, -2, 0, 9], [1, 2, 3, 4, 5], [-90, 2, 1e3, -1e3, 0]];
  const labels = [3, 0, IGNORED_LABEL, 2];
  const [whole, losses] = [t.from(rows.flat(), [4, 5]), t.empty([4])];
  ops.crossEntropy(whole, t.ids(...labels), losses, 0.5);
  const [wholeGradient, wholeLosses] = [await read(whole), await read(losses)];

  const parts = [[0, 2], [2, 5]].map(([start, end]) => {
    const within = (label: number) => label >= start && label < end;
    const own = labels.map((label) =>
      label === IGNORED_LABEL ? label : within(label) ? label - start : OTHER_PART_LABEL
    );
    return {
      logits: t.from(rows.flatMap((row) => row.slice(start, end)), [4, end - start]),
      labels: t.ids(...own),
      start,
    };
  });
  const sums: number[][] = [];
  for (const { logits, labels } of parts) {
    const out = t.empty([4, 2]);
    ops.logSumExp(logits, labels, out);
    sums.push(await read(out));
  }
  const total = labels.map((_, row) => {
    const [a, b] = sums.map((sum) => sum[2 * row]);
    return Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
  });
  const partLosses = labels.map((label, row) =>
    label === IGNORED_LABEL ? 0 : total[row] - sums[0][2 * row + 1] - sums[1][2 * row + 1]
  );
  // Log-sum-exp is rounded to f32 on its way: a unit in the last place of 1000.
  assertClose(partLosses, wholeLosses, { absolute: 1e-6, relative: 1e-6, what: "losses" });
  for (const { logits, labels, start } of parts) {
    ops.crossEntropyGradient(logits, labels, t.from(total, [4]), 0.5);
    const columns = logits.shape[1];
    const expected = rows.flatMap((_, row) => [...wholeGradient].slice(5 * row + start, 5 * row + start + columns));
    assertClose(await read(logits), expected, { absolute: 1e-6, what: "gradient" });
  }
});

opTest("sum and sumSquares add up every element once", async ({ ops }, t, read) => {
  const count = 2 * PARTIAL_SUMS + 3;
  const x = t.from(Array.from({ length: count }, (_, i) => i + 1), [count]);
  const [total, partials] = [t.empty([1]), t.zeros([PARTIAL_SUMS])];
  ops.sum(x, total);
  assertEquals(await read(total), [count * (count + 1) / 2]);
  ops.sumSquares(x, partials);
  ops.sumSquares(x, partials);
  const squares = (await read(partials)).reduce((sum, partial) => sum + partial, 0);
  assertAlmostEquals(squares, 2 * count * (count + 1) * (2 * count + 1) / 6, squares * 6e-8);
});

opTest("clipFactor is torch's: below 1 only when the norm is above the limit", async ({ ops }, t, read) => {
  const result = t.empty([2]);
  const partials = t.zeros([PARTIAL_SUMS]);
  {
    using head = partials.rows(0, 2);
    ops.copy(t.from([9, 16], [2]), head);
  }
  ops.clipFactor(partials, result, 1);
  assertClose(await read(result), [5, 1 / 5.000001], { ...ROUNDED_ONCE, what: "above" });
  ops.clipFactor(partials, result, 8);
  assertEquals(await read(result), [5, 1]);
  ops.fill(partials, 0);
  ops.clipFactor(partials, result, 1);
  assertEquals(await read(result), [0, 1]);
});

opTest("adamw takes torch's steps", async ({ ops }, t, read) => {
  const [param, m, v] = [t.from([1, -2], [2]), t.zeros([2]), t.zeros([2])];
  const options = { learningRate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 0.5, weightDecay: 0.2 };
  ops.adamw(param, t.from([3, 4], [2]), m, v, { ...options, step: 1 });
  // decay: 1 − 0.1 · 0.2 = 0.98; m/(1 − 0.9) = g; √v/√(1 − 0.99) = |g|; param · 0.98 − 0.1 · g / (|g| + 0.5)
  assertClose(await read(param), [0.98 - 0.3 / 3.5, -1.96 - 0.4 / 4.5], { relative: 2e-7, what: "step 1" });
  assertClose(await read(m), [0.3, 0.4], { relative: 1e-7, what: "m" });
  assertClose(await read(v), [0.09, 0.16], { relative: 1e-7, what: "v" });
  const before = await read(param);
  ops.adamw(param, t.from([-6, 0], [2]), m, v, { ...options, step: 2 }, t.from([777, 0.5], [2]));
  // m = 0.9 · 0.3 − 0.1 · 3 and 0.9 · 0.4; v = 0.99 · 0.09 + 0.01 · 9 and 0.99 · 0.16, the gradient being clipped by half
  const [m2, v2] = [[-0.03, 0.36], [0.1791, 0.1584]];
  const expected = before.map((p, i) =>
    p * 0.98 - 0.1 / (1 - 0.9 ** 2) * m2[i] / (Math.sqrt(v2[i]) / Math.sqrt(1 - 0.99 ** 2) + 0.5)
  );
  assertClose(await read(param), expected, { relative: 2e-7, what: "step 2" });
  assertClose(await read(m), m2, { absolute: 3e-8, what: "m after clipping" });
  assertClose(await read(v), v2, { absolute: 1e-8, what: "v after clipping" });
});

opTest("add, scale, fill and copy work element by element, ids too", async ({ ops }, t, read) => {
  const [x, out] = [t.from([1, -2, 3], [3]), t.from([10, 20, 30], [3, 1])];
  ops.add(x, out);
  ops.scale(out, 0.5);
  assertEquals(await read(out), [5.5, 9, 16.5]);
  ops.copy(out, x);
  assertEquals(await read(x), [5.5, 9, 16.5]);
  ops.fill(x, 7);
  assertEquals(await read(x), [7, 7, 7]);
  const [ids, table] = [t.empty([2], "u32"), t.from([1, 2, 3], [3, 1])];
  ops.copy(t.ids(2, 1), ids);
  const looked = t.empty([2, 1]);
  ops.embedding(ids, table, looked);
  assertEquals(await read(looked), [3, 2]);
});

opTest("ops read and write views where they lie", async ({ ops }, t, read) => {
  const whole = t.from([0, 1, 2, 3, 4, 5, 6, 7], [4, 2]);
  using first = whole.rows(0, 1);
  using middle = whole.rows(1, 3);
  ops.scale(middle, 10);
  assertEquals(await read(whole), [0, 1, 20, 30, 40, 50, 6, 7]);
  const swapped = t.empty([2, 2]);
  ops.matmul(middle, t.from([0, 1, 1, 0], [2, 2]), swapped);
  assertEquals(await read(swapped), [30, 20, 50, 40]);
  using last = whole.rows(3, 4);
  ops.add(last, first);
  assertEquals([await read(whole), await read(first)], [[6, 8, 20, 30, 40, 50, 6, 7], [6, 8]]);
});

/** A test on a poisoned reference backend that ends with nothing alive. */
function opTest(
  what: string,
  test: (backend: Backend, t: TestTensors, read: (tensor: Tensor) => Promise<number[]>) => Promise<void>,
): void {
  Deno.test(`reference ${what}`, async () => {
    const backend = createReferenceBackend({ poison: true });
    {
      using t = new TestTensors(backend);
      await test(backend, t, async (tensor) => [...await backend.read(tensor)]);
    }
    assertEquals(backend.ledger.liveBytes(), 0);
  });
}
