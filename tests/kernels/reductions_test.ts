import { assertEquals, assertThrows } from "@std/assert";
import { zeros } from "../../packages/core/backend/backend.ts";
import { PARTIAL_SUMS } from "../../packages/core/backend/ops.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import type { DType } from "../../packages/core/tensor/shape.ts";
import { assertClose } from "../_support/compare.ts";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import { Random } from "../_support/random.ts";

for (const { label, options } of GPU_VARIANTS) {
  for (const size of [1, 4, 255, 1024, 1030, 5001]) {
    gpuTest(`sum of ${size} elements${label}`, async (backend) => {
      await assertOpMatchesReference(backend, {
        inputs: {
          x: { shape: [size], data: new Random(size).normals(size) },
          out: { shape: [1], data: new Float32Array([3]) },
        },
        run: (ops, { x, out }) => ops.sum(x, out),
        // At most 5,001 numbers of size 1, whose partial sums stay below 300: 20 roundings deep.
        results: { out: { absolute: 5e-5 } },
      });
    }, options);

    gpuTest(`squares and clip factor of ${size} elements, twice${label}`, async (backend) => {
      const values = new Random(size + 1).normals(size);
      using x = backend.empty([size], "scratch");
      using partials = zeros(backend, [PARTIAL_SUMS], "scratch");
      using result = zeros(backend, [2], "scratch");
      backend.write(x, values);
      for (const maxNorm of [1, 1e6]) {
        backend.ops.fill(partials, 0);
        backend.ops.sumSquares(x, partials);
        backend.ops.sumSquares(x, partials);
        backend.ops.clipFactor(partials, result, maxNorm);
        const actual = await backend.read(result);
        const norm = Math.sqrt(2 * values.reduce((sum, value) => sum + value * value, 0));
        const expected = [norm, Math.min(1, maxNorm / (norm + 1e-6))];
        assertClose(actual, expected, { what: "norm and factor", relative: 2e-6 });
      }
    }, options);
  }

  gpuTest(`a number that is not finite makes the norm infinite and the factor 0${label}`, async (backend) => {
    using x = backend.empty([1030], "scratch");
    using partials = zeros(backend, [PARTIAL_SUMS], "scratch");
    using result = zeros(backend, [2], "scratch");
    for (const [at, number] of [[0, NaN], [517, Infinity], [1029, -Infinity], [3, 3e38]]) {
      const values = new Random(1).normals(1030);
      values[at] = number;
      backend.write(x, values);
      backend.ops.fill(partials, 0);
      backend.ops.sumSquares(x, partials);
      backend.ops.clipFactor(partials, result, 1);
      assertEquals([...await backend.read(result)], [Infinity, 0], `element ${at} is ${number}`);
    }
    backend.ops.fill(x, 64);
    backend.ops.fill(partials, 0);
    backend.ops.sumSquares(x, partials);
    for (const maxNorm of [1, Infinity]) {
      backend.ops.clipFactor(partials, result, maxNorm, { gradientScale: 2 ** -6 });
      const norm = Math.sqrt(1030);
      assertClose(await backend.read(result), [norm, Math.min(1, maxNorm / norm)], { what: "scaled", relative: 2e-6 });
    }
  }, options);

  for (const [rows, heads, headDim] of [[1, 1, 1], [5, 3, 7], [70, 2, 64], [33, 4, 128]]) {
    gpuTest(`attention delta of ${rows} rows, ${heads} heads of ${headDim}${label}`, async (backend) => {
      const random = new Random(rows);
      const matrix = () => ({ shape: [rows, heads * headDim], data: random.normals(rows * heads * headDim) });
      await assertOpMatchesReference(backend, {
        inputs: { out: matrix(), dOut: matrix(), delta: { shape: [rows, heads], data: random.normals(rows * heads) } },
        run: (ops, { out, dOut, delta }) => ops.attentionDelta(out, dOut, delta, heads),
        // Sums of up to 128 products of normal numbers, in another order.
        results: { delta: { absolute: 5e-6, relative: 1e-6, rejectAllZero: true } },
      });
    }, options);
  }

  for (const [rows, heads, headDim] of [[5, 3, 6], [33, 2, 20], [33, 4, 128]]) {
    gpuTest(`attention delta of f16, ${rows} rows, ${heads} heads of ${headDim}${label}`, async (backend) => {
      const random = new Random(rows);
      const numbers = () => random.normals(rows * heads * headDim);
      const matrix = (dtype: DType) => ({ shape: [rows, heads * headDim], data: numbers(), dtype });
      const delta = { shape: [rows, heads], data: random.normals(rows * heads) };
      for (const [outs, dOuts] of [["f16", "f16"], ["f32", "f16"]] as const) {
        await assertOpMatchesReference(backend, {
          inputs: { out: matrix(outs), dOut: matrix(dOuts), delta },
          run: (ops, { out, dOut, delta }) => ops.attentionDelta(out, dOut, delta, heads),
          // As for f32: both sides read the same rounded numbers and add up in f32.
          results: { delta: { absolute: 5e-6, relative: 1e-6, rejectAllZero: true } },
        });
      }
    }, options);
  }
}

gpuTest("attention delta refuses f16 of an odd head dim", (backend) => {
  using scope = new Scope();
  const out = scope.own(backend.empty([2, 6], "scratch", "f16"));
  const delta = scope.own(backend.empty([2, 2], "scratch"));
  assertThrows(() => backend.ops.attentionDelta(out, out, delta, 2), RangeError, "head dim of f16 must be even, not 3");
});

gpuTest("sum of no elements is zero", async (backend) => {
  using x = backend.empty([0], "scratch");
  using out = backend.empty([1], "scratch");
  backend.ops.fill(out, 5);
  backend.ops.sum(x, out);
  assertEquals(await backend.read(out), new Float32Array(1));
});

gpuTest("sum and squares of 20 million elements at an odd place", async (backend) => {
  // More turns of a loop than a software driver grants, if one dispatch did it all.
  const size = 20_000_001;
  using whole = backend.empty([size + 1], "scratch");
  backend.ops.fill(whole, 2);
  using x = whole.rows(1, size + 1);
  using partials = zeros(backend, [PARTIAL_SUMS], "scratch");
  using total = zeros(backend, [1], "scratch");
  backend.ops.sumSquares(x, partials);
  backend.ops.sum(x, total);
  const [squares, [sum]] = await backend.readAll([partials, total]);
  assertEquals(squares.reduce((a, b) => a + b), 4 * size);
  assertEquals(sum, Math.fround(2 * size));
});

gpuTest("reductions give the same bits every time", async (backend) => {
  const size = 100_003;
  using x = backend.empty([size], "scratch");
  using total = zeros(backend, [1], "scratch");
  backend.write(x, new Random(1).normals(size));
  const seen = new Set<number>();
  for (let i = 0; i < 5; i++) {
    backend.ops.sum(x, total);
    seen.add((await backend.read(total))[0]);
  }
  assertEquals(seen.size, 1);
});
