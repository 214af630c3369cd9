import { assertEquals } from "@std/assert";
import { type Dispatcher, WORKSPACE_BYTES } from "../../packages/core/backend/webgpu/dispatch.ts";
import {
  choosePlan,
  tileOf,
  tilesInvocations,
  tilesWorkgroupBytes,
  variantName,
} from "../../packages/core/backend/webgpu/kernels/matmul_variant.ts";

function device(limits: Partial<Dispatcher["limits"]>, isSoftware: boolean, subgroupLanes = 0): Dispatcher {
  return {
    limits: {
      maxBindingBytes: 2 ** 27,
      maxWorkgroupMemoryBytes: 16_384,
      maxInvocations: 256,
      maxStorageBuffers: 8,
      offsetAlignmentBytes: 256,
      maxLoopTurns: Infinity,
      ...limits,
    },
    isSoftware,
    features: { f16: false, subgroups: subgroupLanes > 0, subgroupMatrix: false },
    subgroupLanes,
    workspace: () => {
      throw new Error("Planning must not need memory");
    },
    run: () => {},
  };
}

Deno.test("the variant fits the smallest device that WebGPU allows, and the tile fits the size of the product", () => {
  for (const size of [1, 32, 100, 768, 8192]) {
    const { variant } = choosePlan({ layout: "NT", m: size, n: size, k: size }, device({}, false));
    if (variant.kind !== "tiles") throw new TypeError("A GPU must get a variant with tiles");
    assertEquals(tilesInvocations(variant) <= 256, true);
    assertEquals(tilesWorkgroupBytes(variant) <= 16_384, true);
  }
});

Deno.test("a product with few tiles and a long k is computed in parts that fill a GPU and fit the workspace", () => {
  const gpu = device({ maxWorkgroupMemoryBytes: 49_152, maxInvocations: 1024 }, false);
  const planOf = (m: number, n: number, k: number, on = gpu) => choosePlan({ layout: "NN", m, n, k }, on);
  for (const [m, n, k] of [[196, 768, 32_000], [745, 768, 2048], [128, 128, 8192]]) {
    const { variant, parts } = planOf(m, n, k);
    const { tileM, tileN } = tileOf(variant);
    const workgroups = Math.ceil(m / tileM) * Math.ceil(n / tileN) * parts;
    assertEquals(parts > 1 && workgroups > 100, true, `${m} × ${n} × ${k}: ${parts} parts`);
    assertEquals(4 * parts * m * n <= WORKSPACE_BYTES, true);
    assertEquals(planOf(m, n, k, device({ maxBindingBytes: 4096 }, false)).parts, 1);
  }
  assertEquals(planOf(8192, 8192, 8192).parts, 1);
  assertEquals(planOf(8192, 2048, 768).parts, 1);
  assertEquals(planOf(64, 64, 64).parts, 1);
});

Deno.test("matrix units get parts of k until as many workgroups run side by side as a core needs", () => {
  const gpu = device({ maxWorkgroupMemoryBytes: 49_152, maxInvocations: 1024 }, false);
  const partsOf = (m: number, n: number, k: number) => choosePlan({ layout: "NN", m, n, k }, gpu, true).parts;
  assertEquals(partsOf(512, 4096, 128_256), 2); // a tile a core as it is, and no room for three in the workspace
  assertEquals(partsOf(2048, 768, 8192), 2);
  assertEquals(partsOf(768, 768, 65_536) >= 6, true);
  assertEquals(partsOf(2048, 2048, 8192), 1);
  assertEquals(partsOf(8192, 8192, 8192), 1);
});

Deno.test("a software driver gets lanes, with shuffles where its subgroups allow and the size is worth compiling", () => {
  const dims = { layout: "NT", m: 2048, n: 352, k: 128 } as const;
  for (const lanes of [0, 4, 8, 16]) {
    const { variant } = choosePlan(dims, device({}, true, lanes));
    if (variant.kind !== "lanes") throw new TypeError("A software driver must get a variant with lanes");
    assertEquals(variant.shuffle, lanes > 0);
    if (lanes > 0) assertEquals([variant.lanes, variant.tileM % (4 * lanes)], [lanes, 0]);
  }
  assertEquals(
    variantName(choosePlan({ layout: "NN", m: 64, n: 32, k: 32 }, device({}, true, 8)).variant),
    "8x32 lanes alone",
  );
});
