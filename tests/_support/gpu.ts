/**
 * Tests that need a GPU driver, of hardware or software.
 *
 * @module
 */

import {
  createWebGpuBackend,
  type WebGpuBackend,
  type WebGpuOptions,
} from "../../packages/core/backend/webgpu/webgpu_backend.ts";
import { assertEquals } from "@std/assert";

const hasGpu = Boolean(await navigator.gpu?.requestAdapter());
const isRequired = Deno.env.get("MST_REQUIRE_GPU") === "1";
const backends = new Map<string, Promise<WebGpuBackend>>();

/** A way to run kernels, to be told apart in the name of a test. */
export interface GpuVariant {
  readonly label: string;
  readonly options: WebGpuOptions;
}

/**
 * The device as it is, with bindings of only 4 KiB, and with the kernels for a GPU and for a software driver whichever
 * the device is.
 */
export const GPU_VARIANTS: readonly GpuVariant[] = [
  { label: "", options: {} },
  { label: ", bindings of 4 KiB", options: { maxBindingBytes: 4096 } },
  { label: ", kernels for a GPU", options: { kernelsFor: "gpu" } },
  { label: ", kernels for a software driver", options: { kernelsFor: "software", maxBindingBytes: 4096 } },
];

/** The backend of a file for some options; made at the first call and kept. */
export function gpuBackend(options: WebGpuOptions = {}): Promise<WebGpuBackend> {
  const key = JSON.stringify(options);
  let backend = backends.get(key);
  if (!backend) backends.set(key, backend = createWebGpuBackend(options));
  return backend;
}

/**
 * Defines a test that gets a WebGPU backend and has to free all it allocates. Without a GPU driver it fails when
 * MST_REQUIRE_GPU is 1, and is ignored otherwise.
 */
export function gpuTest(
  name: string,
  fn: (backend: WebGpuBackend) => void | Promise<void>,
  options: WebGpuOptions = {},
): void {
  const ignore = !hasGpu && !isRequired;
  if (ignore) console.warn(`Ignored, since there is no GPU driver (MST_REQUIRE_GPU=1 makes this fail): ${name}`);
  Deno.test({
    name,
    ignore,
    fn: async () => {
      const backend = await gpuBackend(options);
      try {
        await fn(backend);
        await backend.sync();
        assertEquals(backend.ledger.liveBytes(), 0, "Bytes still live at the end of the test");
      } catch (error) {
        // What has failed once fails all that follows; the other tests get a device of their own.
        backends.delete(JSON.stringify(options));
        throw error;
      }
    },
  });
}
