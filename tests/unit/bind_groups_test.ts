import { assertEquals, assertNotStrictEquals, assertStrictEquals } from "@std/assert";
import { BindGroups, BoundTensors } from "../../packages/core/backend/webgpu/bind_groups.ts";
import { DeviceErrors } from "../../packages/core/backend/webgpu/device_error.ts";
import type { KernelCall, KernelTensor } from "../../packages/core/backend/webgpu/dispatch.ts";
import { WebGpuStorage } from "../../packages/core/backend/webgpu/webgpu_storage.ts";
import { Ledger } from "../../packages/core/memory/ledger.ts";
import { Tensor } from "../../packages/core/tensor/tensor.ts";

const LAYOUT = {} as GPUBindGroupLayout;

/** Bind groups of a device that only counts them, and tensors on buffers of its own. */
function setup() {
  const owner = { ledger: new Ledger(), offsetAlignmentBytes: 256, reclaim() {} };
  let buffers = 0;
  const vector = (elements: number) => {
    const buffer = { gpu: {} as GPUBuffer, id: buffers++, bytes: 4 * elements };
    return new Tensor(new WebGpuStorage(owner, buffer, 4 * elements, "scratch"), [elements]);
  };
  const device = {
    addEventListener() {},
    lost: new Promise(() => {}),
    pushErrorScope() {},
    popErrorScope: () => Promise.resolve(null),
    createBindGroup: (descriptor: GPUBindGroupDescriptor) => ({ ...descriptor }),
  } as unknown as GPUDevice;
  const groups = new BindGroups(device, new DeviceErrors(device), { buffer: {} as GPUBuffer, size: 256 });
  const bound = new BoundTensors(2 ** 30);
  const get = (tensors: readonly KernelTensor[], params: readonly number[] = []) => {
    const call: KernelCall = { kernel: "test", code: "", tensors, params, workgroups: [1, 1, 1] };
    bound.take(call);
    return groups.get(call, bound, LAYOUT);
  };
  return { vector, groups, bound, get };
}

const reads = (tensor: Tensor): KernelTensor => ({ tensor, access: "read" });
const writes = (tensor: Tensor): KernelTensor => ({ tensor, access: "read_write" });

Deno.test("what binds the same has one bind group, and nothing else has it", () => {
  const { vector, get } = setup();
  const [x, y] = [vector(1024), vector(1024)];
  const calls = [
    () => get([reads(x)]),
    () => get([reads(y)]),
    () => get([writes(x)]),
    () => get([reads(x)], [1]),
    () => get([reads(x.elements(64, 1024))]),
    () => get([reads(x.elements(0, 64))]),
    () => get([reads(x), writes(y)]),
    () => get([writes(y), reads(x)]),
    () => get([reads(x), reads(y)]),
    () => get([reads(x), writes(x.elements(64, 128))]),
  ];
  const first = calls.map((call) => call());
  assertEquals(new Set(first).size, calls.length);
  calls.forEach((call, i) => assertStrictEquals(call(), first[i]));
  // Another handle on the same bytes, and a start within the same binding.
  assertStrictEquals(get([reads(x.share())]), first[0]);
  assertStrictEquals(get([reads(x.elements(1, 1024))]), first[0]);
});

Deno.test("bind groups of a buffer are forgotten, those of others are kept", () => {
  const { vector, groups, get } = setup();
  const [x, y] = [vector(8), vector(8)];
  const both = get([reads(x), writes(y)]);
  const alone = get([reads(y)]);
  groups.forget((x.storage as WebGpuStorage).buffer);
  assertNotStrictEquals(get([reads(x), writes(y)]), both);
  assertStrictEquals(get([reads(y)]), alone);
});

Deno.test("bind groups whose hashes are equal do not stand for one another", () => {
  const { vector, bound, get } = setup();
  const x = vector(2 ** 40);
  const seen = new Map<number, Tensor>();
  let pairs = 0;
  let state = 1;
  const below = (limit: number) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % limit;
  };
  // Of so many different bindings some share one of 2³² hashes: 10 pairs are to be expected.
  for (let i = 0; i < 300_000; i++) {
    const start = 64 * below(2 ** 30);
    const view = x.elements(start, start + 64 * (1 + below(2 ** 20)));
    bound.take({ kernel: "test", code: "", tensors: [reads(view)], params: [], workgroups: [1, 1, 1] });
    const other = seen.get(bound.hash);
    seen.set(bound.hash, view);
    if (!other) continue;
    pairs++;
    const ranges = [other, view, other].map((tensor) => {
      const { entries } = get([reads(tensor)]) as unknown as GPUBindGroupDescriptor;
      const [{ resource }] = [...entries];
      const { offset, size } = resource as GPUBufferBinding;
      return [offset, size];
    });
    assertEquals(ranges, [other, view, other].map(({ offset, bytes }) => [4 * offset, bytes]));
  }
  assertEquals(pairs > 0, true);
});
