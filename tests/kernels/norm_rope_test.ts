import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import { Random } from "../_support/random.ts";

/** Sums of up to 1,000 products of normal numbers in f32, in another order than the reference's f64 sums. */
const SUM = { absolute: 4e-6, relative: 4e-6, rejectAllZero: true };

/** Two products and a sum of numbers around 1. */
const ROTATION = { absolute: 1e-6, relative: 1e-6, rejectAllZero: true };

/** Rows and columns: one, ragged, a multiple of 4, more than a workgroup has lanes. */
const SIZES = [[1, 1], [3, 5], [7, 64], [65, 36], [130, 33], [33, 768], [2, 1000]];

const normals = (seed: number, ...shape: number[]) => ({
  shape,
  data: new Random(seed).normals(shape.reduce((a, b) => a * b)),
});

for (const { label, options } of GPU_VARIANTS) {
  for (const [rows, columns] of SIZES) {
    gpuTest(`RMSNorm of ${rows} × ${columns}${label}`, async (backend) => {
      await assertOpMatchesReference(backend, {
        inputs: {
          x: normals(1, rows, columns),
          weight: normals(2, columns),
          out: normals(3, rows, columns),
          rstd: normals(4, rows),
        },
        run: (ops, { x, weight, out, rstd }) => ops.rmsNorm(x, weight, out, rstd, 1e-5),
        results: { out: SUM, rstd: SUM },
      });
    }, options);

    gpuTest(`backward of RMSNorm of ${rows} × ${columns}${label}`, async (backend) => {
      const inputs = {
        x: normals(5, rows, columns),
        weight: normals(6, columns),
        rstd: normals(7, rows),
        dOut: normals(8, rows, columns),
        dx: normals(9, rows, columns),
        dWeight: normals(10, columns),
      };
      await assertOpMatchesReference(backend, {
        inputs,
        run: (ops, { x, weight, rstd, dOut, dx, dWeight }) => ops.rmsNormBackward(x, weight, rstd, dOut, dx, dWeight),
        results: { dx: { absolute: 1e-5, relative: 1e-5 }, dWeight: { absolute: 1e-5, relative: 1e-5 } },
      });
      await assertOpMatchesReference(backend, {
        inputs,
        run: (ops, { x, weight, rstd, dOut, dx }) => ops.rmsNormBackward(x, weight, rstd, dOut, dx),
        results: { dx: { absolute: 1e-5, relative: 1e-5 } },
      }, ["shared"]);
    }, options);
  }

  for (const [batch, tokens, heads, headDim] of [[1, 1, 1, 2], [2, 5, 3, 6], [1, 70, 2, 8], [3, 33, 4, 64]]) {
    gpuTest(`rotation of ${batch} × ${tokens} tokens, ${heads} heads of ${headDim}${label}`, async (backend) => {
      for (const inverse of [false, true]) {
        await assertOpMatchesReference(backend, {
          inputs: { x: normals(11, batch * tokens, heads * headDim), table: normals(12, tokens, headDim) },
          run: (ops, { x, table }) => ops.rope(x, table, heads, { inverse }),
          results: { x: ROTATION },
        });
      }
    }, options);
  }
}

gpuTest("RMSNorm of more than 65,535 rows, and its backward", async (backend) => {
  // More rows than a dispatch has workgroups in a dimension, and than a software driver's loops have turns.
  const [rows, columns] = [140_001, 3];
  await assertOpMatchesReference(backend, {
    inputs: {
      x: normals(13, rows, columns),
      weight: normals(14, columns),
      rstd: normals(15, rows),
      dOut: normals(16, rows, columns),
      dx: normals(17, rows, columns),
      dWeight: normals(18, columns),
    },
    run: (ops, { x, weight, rstd, dOut, dx, dWeight }) => ops.rmsNormBackward(x, weight, rstd, dOut, dx, dWeight),
    // The sum over 140,001 rows is around √140,001 = 374, and rounded as often as each lane has rows.
    results: { dx: { absolute: 1e-5, relative: 1e-5 }, dWeight: { absolute: 2e-2 } },
  }, ["own"]);
});
