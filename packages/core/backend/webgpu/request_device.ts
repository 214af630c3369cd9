/**
 * Choosing the GPU and opening it with the limits that the kernels want.
 *
 * @module
 */

import { DeviceError, NoGpuError } from "./device_error.ts";

/** Limits that are asked for at what the adapter offers; all others stay at WebGPU's defaults. */
const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "minStorageBufferOffsetAlignment",
] as const satisfies readonly (keyof GPUSupportedLimits)[];

/** An opened device and what is known of it. */
export interface OpenDevice {
  /** The device. */
  readonly device: GPUDevice;
  /** Name of the GPU. */
  readonly deviceName: string;
  /** Whether a software driver computes on the CPU. */
  readonly isSoftware: boolean;
}

/** What to open. */
export interface RequestDeviceOptions {
  /** WebGPU implementation. */
  readonly gpu: GPU | undefined;
  /** Whether kernels will be timed. */
  readonly profile: boolean;
}

/**
 * Opens the fastest GPU.
 *
 * @throws {NoGpuError} when there is no driver
 * @throws {DeviceError} when kernels are to be timed and the GPU cannot, or when the device cannot be opened
 */
export async function requestDevice({ gpu, profile }: RequestDeviceOptions): Promise<OpenDevice> {
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new NoGpuError(noGpuMessage());
  const { info, features, limits } = adapter;
  const deviceName = info.description || info.device || [info.vendor, info.architecture].join(" ").trim() || "GPU";
  if (profile && !features.has("timestamp-query")) {
    throw new DeviceError(`Cannot time kernels on ${deviceName}: its driver must offer timestamp-query`);
  }
  const isSoftware = info.isFallbackAdapter || isSoftwareDriver(deviceName);
  const requiredLimits = Object.fromEntries(WANTED_LIMITS.map((limit) => [limit, limits[limit]]));
  const open = (requiredFeatures: GPUFeatureName[]) => adapter.requestDevice({ requiredFeatures, requiredLimits });
  const needed: GPUFeatureName[] = features.has("timestamp-query") ? ["timestamp-query"] : [];
  let device: GPUDevice;
  try {
    // Deno does not list the feature among those of the adapter; trying is the only way to find out.
    device = await (isSoftware ? open([...needed, "subgroups"]).catch(() => open(needed)) : open(needed));
  } catch (cause) {
    throw new DeviceError(`Cannot open ${deviceName}: ${(cause as Error).message}`, undefined, { cause });
  }
  return { device, deviceName, isSoftware };
}

/** Whether a device name is that of a driver that computes on the CPU. */
export function isSoftwareDriver(deviceName: string): boolean {
  return /llvmpipe|lavapipe|swiftshader|basic render/i.test(deviceName);
}

function noGpuMessage(): string {
  return "Cannot find a GPU: WebGPU needs a Vulkan, Metal or Direct3D 12 driver. On Debian, " +
    "`apt-get install mesa-vulkan-drivers` installs Vulkan drivers, among them one in software that needs no GPU. " +
    "A line about XDG_RUNTIME_DIR comes from the driver and is harmless";
}
