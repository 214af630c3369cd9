import { assertEquals, assertThrows } from "@std/assert";
import { tensorFrom } from "../../packages/core/backend/backend.ts";
import { matmul } from "../../packages/core/backend/webgpu/kernels/matmul.ts";
import {
  type LanesVariant,
  lanesVariants,
  type MatmulVariant,
  tiles,
  TILES_VARIANTS,
  variantName,
} from "../../packages/core/backend/webgpu/kernels/matmul_variant.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import { assertClose } from "../_support/compare.ts";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { Random } from "../_support/random.ts";
import { assertProduct, type Dims, type Layout, LAYOUTS, limited, tolerance } from "./_matmul.ts";

/** Quick to compile, with one, two and four teams, one and two buffers, and blocks of more than four rows or columns. */
const SMALL_TILES = [
  tiles([16, 16, 16], [4, 4]),
  tiles([16, 32, 8], [4, 8], 2, 2),
  tiles([32, 16, 16], [8, 4], 4),
];
const SMALL_LANES: LanesVariant = { kind: "lanes", tileM: 8, lanes: 8, shuffle: false };

for (const { label, options } of GPU_VARIANTS) {
  for (const layout of LAYOUTS) {
    gpuTest(`matmul ${layout} of one number, of ragged and of even dims${label}`, async (backend) => {
      await assertProduct(backend, layout, [1, 1, 1], { placements: ["own"] });
      await assertProduct(backend, layout, [37, 35, 21], { accumulate: true, placements: ["shifted"] });
      await assertProduct(backend, layout, [64, 40, 48], { placements: ["own", "shared"] });
    }, options);
  }
}

for (const variant of [...SMALL_TILES, SMALL_LANES]) {
  for (const layout of LAYOUTS) {
    gpuTest(`matmul ${layout} by ${variantName(variant)}`, async (backend) => {
      // k below, at and above multiples of what is taken at a time; and everything bound as vec4s, or nothing.
      for (const dims of [[130, 36, 64], [4, 8, 4], [36, 68, 76], [1, 129, 33], [67, 130, 3]] as const) {
        await assertProduct(backend, layout, dims, { variant, placements: ["own"] });
      }
      // Some operands are bound as vec4s here, and others are not.
      for (const dims of [[36, 35, 34], [35, 36, 34], [35, 34, 36]] as const) {
        await assertProduct(backend, layout, dims, { variant, placements: ["own"] });
      }
      await assertProduct(backend, layout, [36, 68, 32], { variant, accumulate: true, placements: ["shifted"] });
      await assertProduct(backend, layout, [36, 68, 32], { variant, accumulate: true, placements: ["own"] });
    });
  }
}

for (const variant of [SMALL_TILES[1], SMALL_LANES]) {
  gpuTest(`matmul of f16 by ${variantName(variant)}`, async (backend) => {
    for (const layout of LAYOUTS) {
      for (const outType of ["f16", "f32"] as const) {
        const options = { variant, dtype: "f16", outType } as const;
        await assertProduct(backend, layout, [36, 68, 76], { ...options, placements: ["own", "shared"] });
        await assertProduct(backend, layout, [22, 34, 26], { ...options, accumulate: true });
      }
    }
    await assertProduct(backend, "NN", [20, 22, 40], { variant: SMALL_TILES[0], parts: 2, dtype: "f16" });
    await assertProduct(backend, "TN", [20, 24, 40], {
      variant: SMALL_TILES[0],
      parts: 2,
      dtype: "f16",
      accumulate: true,
      placements: ["own"],
    });
  });
}

gpuTest("matmul of f16 as the device would compute it, whole and in bindings of 4 KiB", async (backend) => {
  for (const layout of LAYOUTS) {
    await assertProduct(backend, layout, [72, 136, 64], { dtype: "f16", placements: ["own"] });
    await assertProduct(backend, layout, [130, 70, 34], { dtype: "f16", outType: "f32", accumulate: true });
    const dispatcher = limited(backend, { maxBindingBytes: 4096, offsetAlignmentBytes: 32 });
    await assertProduct(backend, layout, [72, 136, 40], {
      dtype: "f16",
      outType: "f32",
      dispatcher,
      placements: ["own"],
    });
  }
});

/** The matrix units of the device and, for every device, their emulation. */
for (const unit of ["subgroup", "emulated"] as const) {
  gpuTest(`matmul of f16 by matrix units, ${unit}`, async (backend) => {
    if (unit === "subgroup" && !backend.dispatcher.features.subgroupMatrix) return;
    // Teams side by side and on top of one another, and the two ways that rows take turns.
    const tall: MatmulVariant = { kind: "units", teamM: 16, teamN: 32, teamsM: 2, teamsN: 1, tileK: 16 };
    const wide: MatmulVariant = { kind: "units", teamM: 32, teamN: 32, teamsM: 1, teamsN: 2, tileK: 32 };
    const options = { unit, dtype: "f16", placements: ["own"] } as const;
    await assertProduct(backend, "NN", [64, 64, 48], { ...options, variant: tall, outType: "f32", accumulate: true });
    await assertProduct(backend, "NT", [40, 72, 40], { ...options, variant: wide, accumulate: true });
    await assertProduct(backend, "TN", [40, 72, 40], { ...options, variant: wide, outType: "f32" });
    await assertProduct(backend, "NN", [8, 8, 8], { ...options, variant: tall });
    await assertProduct(backend, "TN", [40, 32, 104], { ...options, variant: tall, parts: 3 });
  });
}

gpuTest("matmul by matrix units reads nothing past k that is not finite", async (backend) => {
  using scope = new Scope();
  const variant: MatmulVariant = { kind: "units", teamM: 16, teamN: 32, teamsM: 1, teamsN: 1, tileK: 32 };
  for (const layout of LAYOUTS) {
    // The last rows or columns of the operands' storage, behind k, hold infinities.
    const whole = (rows: number, columns: number) => {
      const tensor = scope.own(backend.empty([rows, columns], "scratch", "f16"));
      backend.write(tensor, new Float32Array(rows * columns).map((_, i) => i < 16 * columns ? 1 : Infinity));
      return scope.own(tensor.rows(0, 16));
    };
    const a = layout === "TN" ? whole(32, 16) : scope.own(backend.empty([16, 16], "scratch", "f16"));
    if (layout !== "TN") backend.write(a, new Float32Array(256).fill(1));
    const b = layout === "NT" ? scope.own(backend.empty([32, 16], "scratch", "f16")) : whole(32, 32);
    if (layout === "NT") backend.write(b, new Float32Array(512).fill(1));
    const out = scope.own(backend.empty([16, 32], "scratch"));
    const flags = { transposeA: layout === "TN", transposeB: layout === "NT" };
    matmul(backend.dispatcher, a, b, out, { ...flags, plan: { variant, parts: 1 }, unit: "emulated" });
    assertEquals(await backend.read(out), new Float32Array(512).fill(16), layout);
  }
});

gpuTest("matmul in parts of k, the last of them shorter or missing", async (backend) => {
  for (const layout of LAYOUTS) {
    for (const [dims, parts] of [[[36, 68, 96], 3], [[37, 35, 101], 4], [[20, 8, 40], 7]] as const) {
      for (const accumulate of [false, true]) {
        const options = { variant: SMALL_TILES[0], parts, accumulate, placements: ["shifted"] } as const;
        await assertProduct(backend, layout, dims, options);
      }
    }
  }
});

gpuTest("matmul by every variant of the tables", async (backend) => {
  const lanes = lanesVariants(backend.dispatcher.subgroupLanes);
  for (const { variant } of [...TILES_VARIANTS, ...lanes]) {
    for (const layout of LAYOUTS) {
      await assertProduct(backend, layout, [132, 136, 76], { variant, placements: ["own"] });
    }
  }
});

gpuTest("matmul by shuffles, of ragged dims", async (backend) => {
  const shuffled = lanesVariants(backend.dispatcher.subgroupLanes).findLast(({ variant }) => variant.shuffle);
  assertEquals(shuffled === undefined, !backend.isSoftware, "Software drivers must offer subgroups");
  if (!shuffled) return;
  for (const layout of LAYOUTS) {
    const options = { variant: shuffled.variant, placements: ["own"] } as const;
    await assertProduct(backend, layout, [37, 70, 30], options);
    await assertProduct(backend, layout, [70, 35, 64], { ...options, accumulate: true });
  }
});

gpuTest("matmul splits each operand that does not fit a binding", async (backend) => {
  const cases: { layout: Layout; dims: Dims; dispatches: number }[] = [
    // The capacity is 1024 − 8 elements; blocks of more than 4 rows are a multiple of 4.
    { layout: "NN", dims: [40, 20, 30], dispatches: 2 },
    { layout: "NN", dims: [8, 8, 300], dispatches: 9 },
    { layout: "NT", dims: [8, 300, 5], dispatches: 9 },
    { layout: "TN", dims: [8, 8, 300], dispatches: 3 },
    { layout: "TN", dims: [130, 130, 7], dispatches: 33 },
    // One row of `out` and `b` alone is too long.
    { layout: "NN", dims: [2, 1500, 3], dispatches: 12 },
    { layout: "NT", dims: [2, 2, 1500], dispatches: 8 },
  ];
  for (const { layout, dims, dispatches } of cases) {
    for (const accumulate of [false, true]) {
      const dispatcher = limited(backend, { maxBindingBytes: 4096, offsetAlignmentBytes: 32 });
      const options = { accumulate, dispatcher, variant: SMALL_LANES, placements: ["shifted"] } as const;
      await assertProduct(backend, layout, dims, options);
      assertEquals(dispatcher.calls.length, dispatches, `Dispatches of ${layout} ${dims}`);
      for (const { tensors } of dispatcher.calls) {
        assertEquals(tensors.every(({ tensor }) => tensor.bytes <= 4096 - 4 * 8), true, "All operands fit");
      }
    }
  }
});

gpuTest("matmul splits k when loops must be short", async (backend) => {
  const dispatcher = limited(backend, { maxLoopTurns: 8 });
  await assertProduct(backend, "TN", [9, 10, 100], { dispatcher, variant: SMALL_LANES, placements: ["own"] });
  assertEquals(dispatcher.calls.length, 4);
});

gpuTest("matmul runs more tiles than a grid has workgroups in one dim", async (backend) => {
  const variant: MatmulVariant = { kind: "lanes", tileM: 4, lanes: 1, shuffle: false };
  const dispatcher = limited(backend, {});
  await assertProduct(backend, "NT", [1024, 1028, 4], { dispatcher, variant, placements: ["own"] });
  assertEquals(dispatcher.calls.map(({ workgroups }) => workgroups), [[32_896, 2, 1]]);
});

gpuTest("matmul without any k writes zeros, or adds none", async (backend) => {
  using scope = new Scope();
  for (const variant of [SMALL_TILES[0], SMALL_LANES]) {
    for (const layout of LAYOUTS) {
      const a = scope.own(backend.empty(layout === "TN" ? [0, 5] : [5, 0], "scratch"));
      const b = scope.own(backend.empty(layout === "NT" ? [6, 0] : [0, 6], "scratch"));
      const out = scope.own(tensorFrom(backend, new Float32Array(30).fill(7), [5, 6], "scratch"));
      const flags = { transposeA: layout === "TN", transposeB: layout === "NT", plan: { variant, parts: 1 } };
      matmul(backend.dispatcher, a, b, out, { ...flags, accumulate: true });
      assertEquals(await backend.read(out), new Float32Array(30).fill(7));
      matmul(backend.dispatcher, a, b, out, flags);
      assertEquals(await backend.read(out), new Float32Array(30));
    }
  }
});

gpuTest("matmul leaves products without rows or columns alone", (backend) => {
  using scope = new Scope();
  const tensor = (m: number, n: number) => scope.own(backend.empty([m, n], "scratch"));
  const dispatcher = limited(backend, {});
  matmul(dispatcher, tensor(0, 5), tensor(5, 6), tensor(0, 6));
  matmul(dispatcher, tensor(4, 5), tensor(5, 0), tensor(4, 0));
  assertEquals(dispatcher.calls, []);
});

gpuTest("matmul gives the same bits each time", async (backend) => {
  using scope = new Scope();
  const random = new Random(5);
  const a = scope.own(tensorFrom(backend, random.normals(300 * 40), [300, 40], "scratch"));
  const b = scope.own(tensorFrom(backend, random.normals(300 * 36), [300, 36], "scratch"));
  for (const variant of [SMALL_TILES[2], SMALL_LANES]) {
    const results: Float32Array[] = [];
    for (let i = 0; i < 3; i++) {
      const out = scope.own(backend.empty([40, 36], "scratch"));
      matmul(backend.dispatcher, a, b, out, { transposeA: true, plan: { variant, parts: 1 } });
      results.push(await backend.read(out));
    }
    assertEquals(results[1], results[0]);
    assertEquals(results[2], results[0]);
  }
});

gpuTest("matmul refuses shapes that do not fit together", (backend) => {
  using scope = new Scope();
  const [a, b, out] = [[2, 3], [4, 5], [2, 5]].map((shape) => scope.own(backend.empty(shape, "scratch")));
  assertThrows(() => matmul(backend.dispatcher, a, b, out), RangeError, "Cannot multiply [2, 3] by [4, 5]");
});

Deno.test("the tolerance of products rejects one that lacks a term", () => {
  const random = new Random(6);
  const [x, y] = [random.normals(64), random.normals(64)];
  const dot = (from: number) => x.subarray(from).reduce((sum, value, i) => sum + value * y[from + i], 0);
  assertClose([dot(0)], [dot(0)], { ...tolerance(64), what: "dot product" });
  assertThrows(() => assertClose([dot(1)], [dot(0)], { ...tolerance(64), what: "dot product" }));
});

/** A dispatcher that only tells what the device is like. */
