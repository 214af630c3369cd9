import { groupById } from "../../packages/core/backend/ops.ts";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import { Random } from "../_support/random.ts";

/** Rows, vocabulary, width: one of each, ragged, multiples of 4, wider than a workgroup, rows of few ids. */
const SIZES = [[1, 1, 1], [7, 5, 3], [64, 40, 8], [33, 300, 36], [2000, 3, 4], [9, 30, 700], [21, 9, 6]];

/** Sums of up to 700 normal numbers in f32, where the reference sums in f64. */
const SUM = { absolute: 2e-5, relative: 1e-5, rejectAllZero: true };

for (const { label, options } of GPU_VARIANTS) {
  for (const [rows, vocabulary, width] of SIZES) {
    gpuTest(`embedding of ${rows} tokens in [${vocabulary}, ${width}] and its backward${label}`, async (backend) => {
      const random = new Random(rows);
      const ids = random.integers(rows, vocabulary);
      const { order, segments } = groupById(ids);
      const table = { shape: [vocabulary, width], data: random.normals(vocabulary * width) };
      const out = { shape: [rows, width], data: random.normals(rows * width) };
      await assertOpMatchesReference(backend, {
        inputs: { ids: { shape: [rows], data: ids }, table, out },
        run: (ops, { ids, table, out }) => ops.embedding(ids, table, out),
        results: { out: {} },
      });
      await assertOpMatchesReference(backend, {
        inputs: {
          order: { shape: [rows], data: order },
          segments: { shape: [segments.length / 3, 3], data: segments },
          dOut: out,
          dTable: table,
        },
        run: (ops, { order, segments, dOut, dTable }) => ops.embeddingBackward(order, segments, dOut, dTable),
        results: { dTable: SUM },
      });
      if (width % 2 !== 0) return;
      await assertOpMatchesReference(backend, {
        inputs: {
          ids: { shape: [rows], data: ids },
          table: { ...table, dtype: "f16" },
          out: { ...out, dtype: "f16" },
        },
        run: (ops, { ids, table, out }) => ops.embedding(ids, table, out),
        results: { out: {} },
      });
      await assertOpMatchesReference(backend, {
        inputs: {
          order: { shape: [rows], data: order },
          segments: { shape: [segments.length / 3, 3], data: segments },
          dOut: { ...out, dtype: "f16" },
          dTable: table,
        },
        run: (ops, { order, segments, dOut, dTable }) => ops.embeddingBackward(order, segments, dOut, dTable),
        results: { dTable: SUM },
      });
    }, options);
  }
}

gpuTest("backward of the embedding of one token 70,000 times", async (backend) => {
  const rows = 70_000;
  const { order, segments } = groupById(new Uint32Array(rows).fill(1));
  await assertOpMatchesReference(backend, {
    inputs: {
      order: { shape: [rows], data: order },
      segments: { shape: [1, 3], data: segments },
      dOut: { shape: [rows, 2], data: new Float32Array(2 * rows).fill(0.5) },
      dTable: { shape: [3, 2], data: new Float32Array(6) },
    },
    run: (ops, { order, segments, dOut, dTable }) => ops.embeddingBackward(order, segments, dOut, dTable),
    results: { dTable: {} },
  }, ["own"]);
});
