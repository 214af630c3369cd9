import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import { Random } from "../_support/random.ts";

/** Sums of up to 1,000 products of normal numbers in f32, in another order than the reference's f64 sums. */
const SUM = { absolute: 4e-6, relative: 4e-6, rejectAllZero: true };

/** Two products and a sum of numbers around 1. */
const ROTATION = { absolute: 1e-6, relative: 1e-6, rejectAllZero: true };

/** A rounding to f16, which may fall on either side where f32 results differ in their last bits. */
const HALF = { absolute: 1e-5, relative: 2 ** -10, rejectAllZero: true };

/** Rows and columns: one, ragged, a multiple of 4, more than a workgroup has lanes. */
const SIZES = [[1, 1], [3, 5], [7, 64], [65, 36], [130, 33], [33, 768], [2, 1000]];

const normals = (seed: number, ...shape: number[]) => ({
  shape,
  data: new Random(seed).normals(shape.reduce((a, b) => a * b)),
});

const halves = (seed: number, ...shape: number[]) => ({ ...normals(seed, ...shape), dtype: "f16" as const });

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

// Both families of kernels, one of them with small bindings.
for (const { label, options } of GPU_VARIANTS.slice(2)) {
  // Groups of 2, 4 and 8, and rows of several.
  for (const [rows, columns] of [[3, 2], [33, 36], [33, 768]]) {
    gpuTest(`f16: RMSNorm of ${rows} × ${columns} and its backward${label}`, async (backend) => {
      await assertOpMatchesReference(backend, {
        inputs: {
          x: halves(1, rows, columns),
          weight: normals(2, columns),
          out: halves(3, rows, columns),
          rstd: normals(4, rows),
        },
        run: (ops, { x, weight, out, rstd }) => ops.rmsNorm(x, weight, out, rstd, 1e-5),
        results: { out: HALF, rstd: SUM },
      });
      await assertOpMatchesReference(backend, {
        inputs: {
          x: halves(5, rows, columns),
          weight: normals(6, columns),
          rstd: normals(7, rows),
          dOut: halves(8, rows, columns),
          dx: halves(9, rows, columns),
          dWeight: normals(10, columns),
        },
        run: (ops, { x, weight, rstd, dOut, dx, dWeight }) => ops.rmsNormBackward(x, weight, rstd, dOut, dx, dWeight),
        results: { dx: HALF, dWeight: { absolute: 1e-5, relative: 1e-5 } },
      });
    }, options);

    gpuTest(`RMSNorm of ${rows} × ${columns} after a residual connection${label}`, async (backend) => {
      for (const matrix of [normals, halves]) {
        await assertOpMatchesReference(backend, {
          inputs: {
            x: matrix(1, rows, columns),
            add: matrix(19, rows, columns),
            weight: normals(2, columns),
            out: matrix(3, rows, columns),
            rstd: normals(4, rows),
          },
          run: (ops, { x, add, weight, out, rstd }) => ops.rmsNorm(x, weight, out, rstd, 1e-5, { add }),
          // One sum, rounded: every bit of x.
          results: { x: {}, out: matrix === halves ? HALF : SUM, rstd: SUM },
        });
      }
    }, options);
  }

  for (const [batch, tokens, headDim] of [[2, 5, 4], [3, 33, 64]]) {
    gpuTest(
      `rotation of queries and keys, ${batch} × ${tokens} tokens, heads of ${headDim}${label}`,
      async (backend) => {
        for (const matrix of [normals, halves]) {
          for (const [heads, keyHeads] of [[3, 1], [2, 2]]) {
            await assertOpMatchesReference(backend, {
              inputs: {
                x: matrix(11, batch * tokens, heads * headDim),
                keys: matrix(13, batch * tokens, keyHeads * headDim),
                table: normals(12, tokens, headDim),
              },
              run: (ops, { x, keys, table }) =>
                ops.rope(x, table, heads, { inverse: heads === 2, keys: { x: keys, heads: keyHeads } }),
              results: matrix === halves ? { x: HALF, keys: HALF } : { x: ROTATION, keys: ROTATION },
            });
          }
        }
      },
      options,
    );
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
