import { assert, assertEquals, assertLess, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { tensorFrom, zeros } from "../../packages/core/backend/backend.ts";
import { DeviceError, NoGpuError } from "../../packages/core/backend/webgpu/device_error.ts";
import type { KernelCall } from "../../packages/core/backend/webgpu/dispatch.ts";
import { createWebGpuBackend } from "../../packages/core/backend/webgpu/webgpu_backend.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import { MemoryBudgetError } from "../../packages/core/memory/memory_budget_error.ts";
import { gpuTest } from "../_support/gpu.ts";
import { faultyGpu } from "../_support/faulty_gpu.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";

const DOUBLE = `
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(4)
fn main(@builtin(global_invocation_id) gid: vec3u) { x[gid.x] *= 2.0; }
`;

/** A call of {@linkcode DOUBLE} on 4 elements, with parts of it replaced. */
function doubling(tensor: Tensor, changes: Partial<KernelCall> = {}): KernelCall {
  return {
    kernel: "double",
    code: DOUBLE,
    tensors: [{ tensor, access: "read_write" }],
    params: [],
    workgroups: [1, 1, 1],
    ...changes,
  };
}

Deno.test("without a driver the error says how to get one", async () => {
  const gpu = { requestAdapter: () => Promise.resolve(null) } as unknown as GPU;
  const error = await assertRejects(() => createWebGpuBackend({ gpu }), NoGpuError);
  assertStringIncludes(error.message, "mesa-vulkan-drivers");
});

gpuTest("a kernel that does not compile is named, with the message and its numbered source", async () => {
  await using backend = await createWebGpuBackend();
  const x = zeros(backend, [4], "scratch");
  const code = DOUBLE.replace("x[gid.x] *= 2.0;", "\n  x[gid.x] *= banana;\n");
  backend.dispatcher.run(doubling(x, { code }));
  const error = await assertRejects(() => backend.sync(), DeviceError, "Cannot compile kernel double");
  assertEquals(error.kernel, "double");
  assertStringIncludes(error.message, "banana");
  assertStringIncludes(error.message, "> 5 |   x[gid.x] *= banana;");
  assertThrows(() => backend.ops.fill(x, 1), DeviceError, "Cannot compile kernel double");
  assertThrows(() => backend.empty([1], "scratch"), DeviceError);
  await assertRejects(() => backend.read(x), DeviceError);
  x.free();
});

gpuTest("a kernel over a limit of the device is named", async () => {
  await using backend = await createWebGpuBackend();
  using x = zeros(backend, [4], "scratch");
  const code = DOUBLE.replace("@workgroup_size(4)", "@workgroup_size(4096)");
  backend.dispatcher.run(doubling(x, { code, kernel: "double 4096" }));
  const error = await assertRejects(() => backend.read(x), DeviceError, "Cannot make a pipeline of kernel double 4096");
  assertEquals(error.kernel, "double 4096");
});

gpuTest("calls that cannot work are refused at once, with kernel and sizes", (backend) => {
  using x = zeros(backend, [4], "scratch");
  const refused = (changes: Partial<KernelCall>, message: string, tensor = x) =>
    assertThrows(() => backend.dispatcher.run(doubling(tensor, changes)), RangeError, message);
  refused({ workgroups: [65_536, 1, 1] }, "Cannot run kernel double ([4]) on a grid of 65536 × 1 × 1 workgroups");
  refused({ workgroups: [1, 0.5, 1] }, "1 × 0.5 × 1");
  refused({ params: [-1] }, "Cannot run kernel double ([4]) with the param -1: it must be a u32");
  refused({ params: [2 ** 32] }, "must be a u32");
  refused({ params: Array(65).fill(0) }, "with 65 params");
  const code = DOUBLE.replace("var<storage, read_write>", "var<storage,read_write>");
  assertThrows(() => backend.dispatcher.run(doubling(x, { code })), TypeError, "Cannot bind tensor 0 of kernel double");
});

gpuTest("a tensor over a binding is refused by name", (backend) => {
  using x = zeros(backend, [1100], "scratch");
  assertThrows(
    () => backend.dispatcher.run(doubling(x)),
    RangeError,
    "Cannot run kernel double ([1100]): a tensor of shape [1100] takes 4400 bytes, a binding holds at most 4096",
  );
}, { maxBindingBytes: 4096 });

gpuTest("freed tensors and tensors of other backends are refused", async (backend) => {
  const x = zeros(backend, [4], "weights");
  using y = zeros(backend, [4], "scratch");
  x.free();
  assertThrows(() => x.free(), ReferenceError, "Cannot use a freed weights tensor of shape [4]");
  assertThrows(() => backend.ops.add(x, y), ReferenceError, "freed weights tensor");
  assertThrows(() => backend.dispatcher.run(doubling(x)), ReferenceError);
  assertThrows(() => backend.write(x, new Float32Array(4)), ReferenceError);
  await assertRejects(() => backend.read(x), ReferenceError);
  await using reference = createReferenceBackend();
  using foreign = zeros(reference, [4], "scratch");
  assertThrows(() => backend.ops.add(foreign, y), TypeError, "it lives on another backend");
});

gpuTest("a tensor over the largest buffer is refused with shape, bytes and limit", (backend) => {
  const error = assertThrows(() => backend.empty([2 ** 20, 2 ** 23], "weights"), RangeError);
  assertStringIncludes(
    error.message,
    "Cannot allocate a weights tensor of shape [1048576,8388608] (35184372088832 bytes)",
  );
  assertStringIncludes(error.message, "more than the largest buffer of");
  assertThrows(() => backend.empty([-1], "weights"), RangeError);
});

gpuTest("running out of memory names the tensor at the next wait", async () => {
  await using backend = await createWebGpuBackend({ gpu: faultyGpu({ maxAllocationBytes: 1 << 20 }) });
  using small = zeros(backend, [1000], "activations");
  await backend.sync();
  using large = backend.empty([1000, 1000], "gradients");
  const error = await assertRejects(() => backend.read(small), DeviceError);
  assertEquals(error.message, "Cannot allocate a gradients tensor of shape [1000,1000] (4000000 bytes): out of memory");
  assertThrows(() => backend.ops.fill(large, 1), DeviceError, "out of memory");
});

gpuTest("a lost device says what it ran", async () => {
  const gpu = faultyGpu();
  await using backend = await createWebGpuBackend({ gpu });
  using x = zeros(backend, [1000], "activations");
  backend.ops.scale(x, 2);
  backend.flush();
  gpu.lose("the driver was reset");
  await assertRejects(
    () => backend.sync(),
    DeviceError,
    "Cannot go on, the device was lost: the driver was reset (while it ran clear, scale)",
  );
  assertThrows(() => backend.ops.scale(x, 2), DeviceError, "the device was lost");
});

gpuTest("a backend that was disposed of refuses work", async () => {
  const backend = await createWebGpuBackend();
  const x = zeros(backend, [4], "scratch");
  await backend[Symbol.asyncDispose]();
  await backend[Symbol.asyncDispose]();
  assertThrows(() => backend.ops.scale(x, 2), DeviceError, "disposed of");
  await assertRejects(() => backend.read(x), DeviceError, "disposed of");
  x.free();
});

gpuTest("writes, ops and reads take effect in the order of the calls", async (backend) => {
  using x = tensorFrom(backend, new Float32Array([1, 2, 3, 4]), [4], "scratch");
  using y = zeros(backend, [4], "scratch");
  backend.ops.add(x, y);
  backend.write(x, new Float32Array([10, 20, 30, 40]));
  backend.ops.add(x, y);
  const before = backend.read(y);
  backend.ops.fill(y, 7);
  using tail = y.rows(2, 4);
  backend.write(tail, new Float32Array([8, 9]));
  assertEquals(await before, new Float32Array([11, 22, 33, 44]));
  assertEquals(await backend.readAll([y, tail, x]), [
    new Float32Array([7, 7, 8, 9]),
    new Float32Array([8, 9]),
    new Float32Array([10, 20, 30, 40]),
  ]);
});

gpuTest("a buffer freed and used again within a batch keeps the two uses apart", async (backend) => {
  using sum = zeros(backend, [300], "scratch");
  for (let i = 1; i <= 600; i++) {
    using x = backend.empty([300], "scratch");
    backend.ops.fill(x, i);
    backend.ops.add(x, sum);
  }
  assertEquals(await backend.read(sum), new Float32Array(300).fill(300 * 601));
});

gpuTest("memory is reused: steps after the first reserve nothing more", async () => {
  await using backend = await createWebGpuBackend();
  const step = () => {
    using a = backend.empty([1000, 100], "activations");
    using b = backend.empty([300, 100], "activations");
    backend.ops.fill(a, 1);
    backend.ops.fill(b, 1);
  };
  step();
  const reserved = backend.peakReservedBytes;
  for (let i = 0; i < 20; i++) step();
  await backend.sync();
  assertEquals(backend.peakReservedBytes, reserved);
  assertEquals(backend.ledger.peak().totalBytes, 4 * 130_000);
  assertEquals(backend.ledger.liveBytes(), 0);
});

gpuTest("reads larger than one staging buffer arrive whole, as the tensors were at the call", async (backend) => {
  const size = 17 * 2 ** 20 + 3;
  using x = backend.empty([size], "scratch");
  backend.ops.fill(x, 1);
  using first = x.rows(0, 1);
  using last = x.rows(size - 1, size);
  backend.ops.fill(first, 5);
  backend.ops.fill(last, 6);
  const take = backend.readLater([last, first]);
  const reading = backend.readAll([x, last]);
  backend.ops.fill(x, 9);
  const [values, [end]] = await reading;
  assertEquals([values.length, values[0], values[1], values[size - 2], values[size - 1], end], [size, 5, 1, 1, 6, 6]);
  assertEquals(values.reduce((sum, value) => sum + value), size + 9);
  assertEquals(await take(), [Float32Array.of(6), Float32Array.of(5)]);
});

gpuTest("reads fill given arrays, and writes are taken from them, shared memory included", async (backend) => {
  // Lengths that leave the second tensor and the windows of 1 MiB in which it is read out of step.
  const sizes = [2 ** 18 + 1, 2 ** 19 + 3, 1];
  const wanted = sizes.map((size, i) => Float32Array.from({ length: size }, (_, k) => k + i));
  const shared = new Float32Array(new SharedArrayBuffer(4 * (2 ** 20)));
  const tensors = sizes.map((size) => backend.empty([size], "scratch"));
  let start = 1;
  const into = sizes.map((size) => shared.subarray(start, start += size));
  tensors.forEach((tensor, i) => backend.write(tensor, wanted[i]));
  const whole: number[] = [];
  const values = await backend.readAll(tensors, into, (i) => {
    if (into[i].every((value, k) => value === wanted[i][k])) whole.push(i);
  });
  assertEquals(whole, [0, 1, 2], "each is whole when it is said to be there");
  values.forEach((array, i) => assert(array === into[i] && array.every((value, k) => value === wanted[i][k])));
  assertEquals([shared[0], shared[start]], [0, 0]);

  into[1].forEach((value, k) => into[1][k] = -value);
  backend.write(tensors[1], into[1]);
  assert((await backend.read(tensors[1])).every((value, k) => value === -wanted[1][k]));
  tensors.forEach((tensor) => tensor.free());
});

gpuTest(
  "a read of memory that was read before does not sit out the pause with which Deno ends a mapping",
  async (backend) => {
    using x = backend.empty([1], "scratch");
    const times: number[] = [];
    for (let i = 0; i < 20; i++) {
      backend.ops.fill(x, i);
      const startMs = performance.now();
      assertEquals(await backend.read(x), Float32Array.of(i));
      times.push(performance.now() - startMs);
    }
    assertLess(Math.min(...times), 9, "Deno pauses for 10 ms");
  },
);

gpuTest("reads and writes of the wrong kind are refused", async (backend) => {
  using x = backend.empty([3], "scratch");
  using ids = backend.empty([3], "scratch", "u32");
  assertThrows(() => backend.write(x, new Float32Array(2)), RangeError, "Cannot write 2 elements");
  assertThrows(() => backend.write(x, new Uint32Array(3)), TypeError, "Cannot write u32 data");
  assertThrows(() => backend.write(ids, new Float32Array(3)), TypeError, "Cannot write f32 data");
  await assertRejects(() => backend.read(ids), TypeError, "its elements are u32");
  await assertRejects(() => backend.readAll([x], [new Float32Array(2)]), RangeError, "into 2 elements: it has 3");
});

gpuTest("tensors without elements cost nothing and break nothing", async (backend) => {
  using none = zeros(backend, [0, 4], "scratch");
  using some = zeros(backend, [2, 4], "scratch");
  using end = some.rows(2, 2);
  backend.ops.scale(none, 2);
  backend.ops.copy(none, end);
  assertEquals(await backend.readAll([none, end]), [new Float32Array(0), new Float32Array(0)]);
  const read: number[] = [];
  await backend.readAll([none, some, end], undefined, (i) => read.push(i));
  assertEquals(read.sort(), [0, 1, 2], "each is said to be there, once");
});

gpuTest("the profile counts every dispatch and copy by kernel, once", async (backend) => {
  using x = zeros(backend, [1 << 16], "scratch");
  using y = zeros(backend, [1 << 16], "scratch");
  for (let i = 0; i < 300; i++) backend.ops.scale(x, 1);
  backend.ops.copy(x, y);
  const profile = await backend.takeProfile();
  const counts = Object.fromEntries(profile.map(({ kernel, dispatches }) => [kernel, dispatches]));
  assertEquals(counts, { clear: 2, copy: 1, scale: 300 });
  const times = profile.map(({ totalMs }) => totalMs);
  assertEquals(times, times.toSorted((a, b) => b - a));
  for (const { kernel, totalMs } of profile) {
    if (!(totalMs >= 0 && totalMs < 60_000)) throw new Error(`${kernel} took ${totalMs} ms`);
  }
  assertEquals(await backend.takeProfile(), []);
}, { profile: true });

gpuTest("without profiling there is no profile", async (backend) => {
  using x = zeros(backend, [4], "scratch");
  backend.ops.scale(x, 2);
  assertEquals(await backend.takeProfile(), []);
  assertEquals(backend.dispatcher.features.subgroupMatrix, false);
});

Deno.test("bindings below 1024 bytes are refused", async () => {
  await assertRejects(() => createWebGpuBackend({ maxBindingBytes: 512 }), RangeError, "bindings of 512 bytes");
});

gpuTest("a memory budget is kept before the device is asked", async () => {
  await using backend = await createWebGpuBackend({ memoryBudgetBytes: 4096 });
  using _kept = backend.empty([1000], "weights");
  const before = backend.peakReservedBytes;
  assertThrows(() => backend.empty([2 ** 24], "activations"), MemoryBudgetError, "beside 4000 live bytes");
  assertEquals([backend.peakReservedBytes, backend.ledger.liveBytes()], [before, 4000]);
  backend.empty([24], "activations").free();
});
