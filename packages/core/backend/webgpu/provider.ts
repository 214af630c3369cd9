/**
 * The implementations of WebGPU that the backend runs on, and all that it treats differently between them.
 *
 * @module
 */

import { NoGpuError } from "./device_error.ts";
import { PacedWaits } from "./paced_waits.ts";

/** Deno's own implementation, or Dawn, Chromium's, which npm's package `webgpu` brings to Node-API. */
export type WebGpuProvider = "deno" | "dawn";

/** Sets group 0 of a pass; `offset` is that of its only binding with a dynamic one, in bytes. */
export type SetGroup = (pass: GPUComputePassEncoder, group: GPUBindGroup, offset: number) => void;

/** An implementation of WebGPU. */
export interface Provider {
  /** Where adapters come from; kept for as long as a device of it lives, which Dawn needs. */
  readonly gpu: GPU | undefined;
  /** Optional features that a device is asked for where its adapter offers them. */
  readonly wantedFeatures: readonly string[];
  /** What kernels that use subgroups have to start with; Deno's compiler refuses it. */
  readonly subgroupDirective: string;
  /**
   * Whether a mapped range is the mapped memory itself, as the standard says; Deno's is a copy, and its mapping waits
   * otherwise.
   */
  readonly mapsMemory: boolean;
  /** Sets group 0 of a pass with one dynamic offset, in the way that takes the implementation the least time. */
  readonly setGroup: SetGroup;
  /** Waits for what the device does. */
  waitFor<T>(pending: Promise<T>): Promise<T>;
  /** What is missing where there is no adapter, and what to do. */
  readonly noAdapterHint: string;
}

/**
 * Dawn's switches. Kernels guard their own indices and clear what they read of workgroup memory, so Dawn need not do
 * both once more; `allow_unsafe_apis` is what subgroup matrices are offered under.
 */
const DAWN_TOGGLES = [
  "allow_unsafe_apis",
  "vulkan_enable_f16_on_nvidia",
  "disable_robustness",
  "disable_workgroup_init",
];

/** Dawn's switches that are on otherwise: times of kernels rounded to 0.1 ms. */
const DAWN_DISABLED_TOGGLES = ["timestamp_quantization"];

const DRIVERS =
  "On Debian, `apt-get install mesa-vulkan-drivers` installs Vulkan drivers, among them one in software " +
  "that needs no GPU";

/** Deno's own implementation, or any other that is given and behaves alike. */
export function denoProvider(gpu: GPU | undefined = navigator.gpu): Provider {
  return {
    gpu,
    wantedFeatures: ["timestamp-query"],
    subgroupDirective: "",
    mapsMemory: false,
    setGroup: setGroupByWords(),
    waitFor: (pending) => pending,
    noAdapterHint:
      `WebGPU needs a Vulkan, Metal or Direct3D 12 driver. ${DRIVERS}. A line about XDG_RUNTIME_DIR comes ` +
      "from the driver and is harmless",
  };
}

/**
 * Dawn, whose package is loaded here and nowhere else.
 *
 * @throws {NoGpuError} when the package is not installed or does not load on this system
 */
export async function dawnProvider(): Promise<Provider> {
  const gpu = await createDawn();
  const waits = new PacedWaits();
  return {
    gpu,
    wantedFeatures: ["timestamp-query", "shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"],
    subgroupDirective: "enable subgroups;\n",
    mapsMemory: true,
    setGroup: setGroupByList(),
    waitFor: (pending) => waits.waitFor(pending),
    noAdapterHint:
      `Dawn needs a Metal, Direct3D 12 or Vulkan driver; Mesa's must be 23 or newer. ${DRIVERS}; Debian 12 ` +
      "has a newer one in bookworm-backports",
  };
}

/** Deno takes 0.2 µs for an offset in typed memory, and 0.7 µs for one in a list. */
function setGroupByWords(): SetGroup {
  const words = new Uint32Array(1);
  return (pass, group, offset) => {
    words[0] = offset;
    pass.setBindGroup(0, group, words, 0, 1);
  };
}

/** Dawn takes 1.6 µs for an offset in typed memory, which comes with two more arguments, and 1.2 µs for one in a list. */
function setGroupByList(): SetGroup {
  const list = [0];
  return (pass, group, offset) => {
    list[0] = offset;
    pass.setBindGroup(0, group, list);
  };
}

async function createDawn(): Promise<GPU> {
  try {
    const { create } = await import("webgpu");
    return create([
      `enable-dawn-features=${DAWN_TOGGLES.join(",")}`,
      `disable-dawn-features=${DAWN_DISABLED_TOGGLES.join(",")}`,
    ]);
  } catch (cause) {
    throw new NoGpuError(
      "Cannot load Dawn: the npm package webgpu must be installed and have a build for this system; " +
        `\`npx -y deno@2.9.6 install\` in MST's folder installs it (${(cause as Error).message.split("\n")[0]})`,
      { cause },
    );
  }
}
