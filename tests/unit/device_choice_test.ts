import { assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../../packages/bench/cli/usage_error.ts";
import { isSoftwareDevice, resolveDevice } from "../../packages/bench/config/run_options.ts";

const SOFTWARE = { deviceName: "llvmpipe", isSoftware: true, subgroupMatrix: false };
const PLAIN = { deviceName: "GPU", isSoftware: false, subgroupMatrix: false };
const TENSOR_CORES = { ...PLAIN, subgroupMatrix: true };

Deno.test("auto takes Dawn where it finds tensor cores, else Deno's WebGPU, else the reference", () => {
  for (const device of ["auto", undefined] as const) {
    assertEquals(resolveDevice(device, { gpus: [], adapter: PLAIN, dawn: { adapter: TENSOR_CORES } }), "dawn");
    assertEquals(resolveDevice(device, { gpus: [], adapter: PLAIN, dawn: { adapter: PLAIN } }), "webgpu");
    assertEquals(resolveDevice(device, { gpus: [], adapter: PLAIN, dawn: { problem: "not installed" } }), "webgpu");
    assertEquals(resolveDevice(device, { gpus: [], dawn: { adapter: SOFTWARE } }), "reference");
    assertEquals(resolveDevice(device, { gpus: [] }), "reference");
  }
});

Deno.test("a device that is asked for is taken or refused, never replaced", () => {
  const onlyDawn = { gpus: [], dawn: { adapter: SOFTWARE } };
  assertEquals(resolveDevice("dawn", onlyDawn), "dawn");
  assertEquals(isSoftwareDevice("dawn", { ...onlyDawn, adapter: PLAIN }), true);
  assertThrows(() => resolveDevice("webgpu", onlyDawn), UsageError, "Cannot use --device=webgpu");
  const without = { gpus: [], adapter: PLAIN, dawn: { problem: "the npm package webgpu is not installed" } };
  assertThrows(
    () => resolveDevice("dawn", without),
    UsageError,
    "Cannot use --device=dawn: the npm package webgpu is not",
  );
  assertEquals(resolveDevice("reference", without), "reference");
});
