/**
 * Runs kernels by Dawn and compares them with the reference. A process of its own, since the tests' process keeps to one
 * Vulkan driver.
 *
 * @module
 */

import { assertEquals, assertRejects } from "@std/assert";
import { createWebGpuBackend } from "../../packages/core/backend/webgpu/webgpu_backend.ts";
import { DeviceError } from "../../packages/core/backend/webgpu/device_error.ts";
import { tensorFrom, zeros } from "../../packages/core/backend/backend.ts";
import { assertOpMatchesReference } from "./op_case.ts";
import { Random } from "./random.ts";

/** Sums of 40 products of normals differ by their order alone; a wrong index is off by more than 0.1. */
const PRODUCTS = { absolute: 1e-4, relative: 1e-5, rejectAllZero: true };

/** One rounding of a result near 1. */
const ONE_ROUNDING = { absolute: 2 ** -23, relative: 2 ** -23 };

async function compareKernels(kernelsFor: "gpu" | "software"): Promise<void> {
  await using backend = await createWebGpuBackend({ provider: "dawn", kernelsFor });
  const normals = (shape: number[], seed: number) => ({
    shape,
    data: new Random(seed).normals(shape.reduce((a, b) => a * b, 1)),
  });
  await assertOpMatchesReference(backend, {
    inputs: { x: normals([1030], 1), out: normals([1030], 2) },
    run: (ops, { x, out }) => ops.add(x, out),
    results: { out: ONE_ROUNDING },
  });
  await assertOpMatchesReference(backend, {
    inputs: { a: normals([33, 40], 3), b: normals([40, 36], 4), out: normals([33, 36], 5) },
    run: (ops, { a, b, out }) => ops.matmul(a, b, out),
    results: { out: PRODUCTS },
  });
  assertEquals(backend.ledger.liveBytes(), 0);
}

/** Writes and reads of several sizes, more of them at a time than there are staging buffers. */
async function moveBytes(): Promise<void> {
  await using backend = await createWebGpuBackend({ provider: "dawn" });
  const sizes = [1, 3, 1030, 1 << 20, (20 << 20) + 5];
  const given = sizes.flatMap((size, i) => [0, 1].map((again) => new Random(i + 10 * again).normals(size)));
  const tensors = given.map((data) => tensorFrom(backend, data, [data.length], "weights"));
  const into = given.map((data) => new Float32Array(data.length));
  for (let pass = 0; pass < 2; pass++) {
    const fresh = await backend.readAll(tensors);
    await backend.readAll(tensors, into);
    for (const [i, data] of given.entries()) {
      assertEquals(fresh[i].every((value, j) => value === data[j] && into[i][j] === value), true, `tensor ${i}`);
    }
    // What is written while work on the tensor is encoded takes effect after that work.
    for (const [i, tensor] of tensors.entries()) {
      backend.ops.scale(tensor, 2);
      given[i].reverse();
      backend.write(tensor, given[i]);
    }
  }
  // Written more often than there are staging buffers, before any of them comes back.
  const often = zeros(backend, [1 << 18], "weights");
  for (let time = 1; time <= 70; time++) backend.write(often, new Float32Array(often.size).fill(time));
  assertEquals((await backend.read(often)).every((value) => value === 70), true);
  often.free();
  for (const tensor of tensors) tensor.free();
}

/** Dawn's checks stay on, whichever of its switches are set. */
async function failOnPurpose(): Promise<void> {
  const backend = await createWebGpuBackend({ provider: "dawn" });
  backend.dispatcher.run({
    kernel: "broken",
    code: "@compute @workgroup_size(1) fn main() { let x: u32 = 1.5; }",
    tensors: [],
    params: [],
    workgroups: [1, 1, 1],
  });
  const error = await assertRejects(() => backend.sync(), DeviceError, "Cannot compile kernel broken");
  assertEquals(error.kernel, "broken");
  await backend[Symbol.asyncDispose]();
}

if (import.meta.main) {
  await compareKernels("gpu");
  await compareKernels("software");
  await moveBytes();
  await failOnPurpose();
  console.log("done");
}
