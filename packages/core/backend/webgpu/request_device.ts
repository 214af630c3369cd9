/**
 * Choosing the GPU and opening it with the limits and features that the kernels want.
 *
 * @module
 */

import { DeviceError, NoGpuError } from "./device_error.ts";
import type { KernelFeatures } from "./dispatch.ts";
import type { Provider } from "./provider.ts";

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

/** Invocations of a subgroup that kernels with subgroup matrices are written for. */
const MATRIX_SUBGROUP_LANES = 32;

/** Rows and columns of the subgroup matrices that kernels are written for. */
const MATRIX_SIZE = 16;

/** A kind of subgroup matrix, as Dawn lists them. */
interface SubgroupMatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** An opened device and what is known of it. */
export interface OpenDevice {
  /** The device. */
  readonly device: GPUDevice;
  /** Name of the GPU. */
  readonly deviceName: string;
  /** Whether a software driver computes on the CPU. */
  readonly isSoftware: boolean;
  /** What kernels are chosen by. */
  readonly features: KernelFeatures;
  /** The implementation that it is a device of. */
  readonly provider: Provider;
}

/** What to open. */
export interface RequestDeviceOptions {
  /** WebGPU implementation. */
  readonly provider: Provider;
  /** Whether kernels will be timed. */
  readonly profile: boolean;
}

/**
 * Opens the fastest GPU.
 *
 * @throws {NoGpuError} when there is no driver
 * @throws {DeviceError} when kernels are to be timed and the GPU cannot, or when the device cannot be opened
 */
export async function requestDevice({ provider, profile }: RequestDeviceOptions): Promise<OpenDevice> {
  const adapter = await provider.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new NoGpuError(`Cannot find a GPU: ${provider.noAdapterHint}`);
  const { info, limits } = adapter;
  const features = new Set<string>(adapter.features);
  const deviceName = nameOf(info, provider);
  if (profile && !features.has("timestamp-query")) {
    throw new DeviceError(`Cannot time kernels on ${deviceName}: its driver must offer timestamp-query`);
  }
  const isSoftware = info.isFallbackAdapter || isSoftwareDriver(deviceName);
  const requiredLimits = Object.fromEntries(WANTED_LIMITS.map((limit) => [limit, limits[limit]]));
  const open = (names: readonly string[]) =>
    adapter.requestDevice({ requiredFeatures: names as GPUFeatureName[], requiredLimits });
  const offered = provider.wantedFeatures.filter((name) => features.has(name));
  // Deno does not list the feature among those of the adapter; trying is the only way to find out.
  const triesSubgroups = isSoftware && !provider.wantedFeatures.includes("subgroups");
  let device: GPUDevice;
  try {
    device = await (triesSubgroups ? open([...offered, "subgroups"]).catch(() => open(offered)) : open(offered));
  } catch (cause) {
    throw new DeviceError(`Cannot open ${deviceName}: ${(cause as Error).message}`, undefined, { cause });
  }
  return { device, deviceName, isSoftware, features: kernelFeatures(device, info, provider), provider };
}

/** Whether a device name is that of a driver that computes on the CPU. */
export function isSoftwareDriver(deviceName: string): boolean {
  return /llvmpipe|lavapipe|swiftshader|basic render/i.test(deviceName);
}

/** Where Deno describes the GPU, Dawn describes its driver. */
function nameOf({ description, device, vendor, architecture }: GPUAdapterInfo, { mapsMemory }: Provider): string {
  const name = mapsMemory ? device : description || device;
  return name || [vendor, architecture].join(" ").trim() || "GPU";
}

function kernelFeatures(device: GPUDevice, info: GPUAdapterInfo, { gpu }: Provider): KernelFeatures {
  const features = new Set<string>(device.features);
  const { subgroupMinSize, subgroupMaxSize } = info;
  const { subgroupMatrixConfigs = [] } = info as { subgroupMatrixConfigs?: Iterable<SubgroupMatrixConfig> };
  // Deno's types do not know of it.
  const { wgslLanguageFeatures: languageFeatures } = (gpu ?? {}) as { wgslLanguageFeatures?: ReadonlySet<string> };
  const f16 = features.has("shader-f16");
  const subgroups = features.has("subgroups");
  const hasSize = subgroupMinSize === MATRIX_SUBGROUP_LANES && subgroupMaxSize === MATRIX_SUBGROUP_LANES;
  return {
    f16,
    subgroups,
    subgroupMatrix: f16 && subgroups && hasSize && features.has("chromium-experimental-subgroup-matrix") &&
      Array.from(subgroupMatrixConfigs).some(isWantedMatrix),
    bufferView: languageFeatures?.has("buffer_view") ?? false,
  };
}

function isWantedMatrix({ componentType, resultComponentType, M, N, K }: SubgroupMatrixConfig): boolean {
  return componentType === "f16" && resultComponentType === "f32" && [M, N, K].every((size) => size === MATRIX_SIZE);
}
