import { assertEquals } from "@std/assert";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import { Random } from "../_support/random.ts";
import { zeros } from "../../packages/core/backend/backend.ts";

/** Rows, columns of x and of out, first columns, number of columns: aligned, odd, whole rows, one, none, no rows. */
const BLOCKS = [
  [37, 64, 32, 16, 8, 24],
  [5, 8, 8, 0, 0, 8],
  [33, 7, 13, 2, 5, 5],
  [130, 12, 8, 4, 1, 4],
  [9, 1, 300, 0, 299, 1],
  [3, 500, 400, 100, 0, 400],
  [4, 6, 6, 6, 0, 0],
  [0, 6, 6, 0, 0, 6],
];

// This kernel is laid out alike for all devices.
for (const { label, options } of GPU_VARIANTS.slice(0, 2)) {
  for (const [rows, xWidth, outWidth, xColumn, outColumn, columns] of BLOCKS) {
    const inputs = {
      x: { shape: [rows, xWidth], data: new Random(1).normals(rows * xWidth) },
      out: { shape: [rows, outWidth], data: new Random(2).normals(rows * outWidth) },
    };
    const what = `${columns} columns, ${xColumn} of ${xWidth} to ${outColumn} of ${outWidth}, ${rows} rows`;

    gpuTest(`copy ${what}${label}`, async (backend) => {
      await assertOpMatchesReference(backend, {
        inputs,
        run: (ops, { x, out }) => ops.copyColumns(x, xColumn, out, outColumn, columns),
        results: rows * columns > 0 ? { out: {} } : {}, // every bit
      });
      await assertOpMatchesReference(backend, {
        inputs,
        run: (ops, { x, out }) => ops.copyColumns(x, xColumn, out, outColumn, columns, { accumulate: true }),
        results: rows * columns > 0 ? { out: { absolute: 2 ** -24, relative: 2 ** -24 } } : {}, // one rounding
      });
    }, options);

    if ([xWidth, outWidth, xColumn, outColumn, columns].some((count) => count % 2 !== 0)) continue;
    gpuTest(`f16: copy ${what}${label}`, async (backend) => {
      for (const accumulate of [false, true]) {
        await assertOpMatchesReference(backend, {
          inputs: { x: { ...inputs.x, dtype: "f16" }, out: { ...inputs.out, dtype: "f16" } },
          run: (ops, { x, out }) => ops.copyColumns(x, xColumn, out, outColumn, columns, { accumulate }),
          results: rows * columns > 0 ? { out: {} } : {}, // every bit
        });
      }
    }, options);
  }
}

gpuTest("columns of more than 65,535 workgroups", async (backend) => {
  // Not a multiple of 4, so one element an invocation: 65,535 workgroups of 256 and a few elements more.
  const rows = 65_535 * 256 + 5;
  using x = zeros(backend, [rows, 1], "scratch");
  using out = zeros(backend, [rows, 1], "scratch");
  backend.ops.fill(x, 1);
  backend.ops.copyColumns(x, 0, out, 0, 1);
  using last = out.rows(rows - 1, rows);
  backend.ops.copyColumns(x, 0, out, 0, 1, { accumulate: true });
  using total = backend.empty([1], "scratch");
  backend.ops.sum(out, total);
  const [[sum], [end]] = await backend.readAll([total, last]);
  assertEquals([sum, end], [Math.fround(2 * rows), 2]);
});
