/**
 * Counting the GPUs of this machine and giving each rank one of its own.
 *
 * WebGPU opens the first GPU that the Vulkan loader lists. With Mesa's device-select layer, `DRI_PRIME=pci-…` in the
 * environment of a process puts the named one first; `CUDA_VISIBLE_DEVICES` has no effect on Vulkan.
 *
 * @module
 */

/** Where Linux lists devices. */
export interface DeviceFolders {
  /** GPUs of NVIDIA's driver that this process may use, by PCI address: `/proc/driver/nvidia/gpus`. */
  readonly nvidia: string;
  /** Devices of the kernel's graphics drivers: `/sys/class/drm`. */
  readonly drm: string;
  /** Device files of those that this process may use: `/dev/dri`. */
  readonly dri: string;
  /** PCI devices by address: `/sys/bus/pci/devices`. */
  readonly pci: string;
}

const LINUX_FOLDERS: DeviceFolders = {
  nvidia: "/proc/driver/nvidia/gpus",
  drm: "/sys/class/drm",
  dri: "/dev/dri",
  pci: "/sys/bus/pci/devices",
};

const PCI_ADDRESS = /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/i;

/** PCI class of display controllers (PCI Code and ID Assignment Specification, class 03h). */
const DISPLAY_CLASS = /^0x03/;

/** Kernel drivers of GPUs that compute; the display of a server's management controller is none of them. */
const GPU_DRIVERS: readonly string[] = ["nvidia", "nouveau", "amdgpu", "radeon", "i915", "xe"];

/**
 * PCI addresses of the GPUs that this process can use, such as `0000:1b:00.0`, in order; none where the system does not
 * say (other systems than Linux, and machines without a GPU).
 */
export async function listGpus(folders: DeviceFolders = LINUX_FOLDERS): Promise<string[]> {
  const usable = [...await listFolder(folders.nvidia), ...await listRenderNodes(folders)];
  const found = usable.length > 0 ? usable : await listPciGpus(folders.pci);
  const addresses = found.filter((name) => PCI_ADDRESS.test(name)).map((name) => name.toLowerCase());
  return [...new Set(addresses)].sort();
}

/** Number of ranks that `--ranks=auto` stands for: the number of GPUs, or 2 where there is only one or none. */
export function autoRanks(gpus: readonly string[]): number {
  return gpus.length >= 2 ? gpus.length : 2;
}

/**
 * Environment of a rank's process that gives it its GPU, the ranks taking turns. There is nothing to give where there is
 * no choice, and where the user has made it.
 */
export function rankEnvironment(
  gpus: readonly string[],
  rank: number,
  environment: Readonly<Record<string, string>> = Deno.env.toObject(),
): Record<string, string> {
  const driver = driverEnvironment(environment);
  if (gpus.length < 2 || environment.DRI_PRIME !== undefined) return driver;
  return { ...driver, DRI_PRIME: `pci-${gpus[rank % gpus.length].replace(/[:.]/g, "_")}` };
}

/**
 * Says that ranks share the first GPU although there are more, which is so without Mesa's layer, with any driver. Nothing
 * where each gets its own, or the user has chosen.
 */
export async function describeSharing(
  { gpus, ranks, environment = Deno.env.toObject() }: {
    gpus: readonly string[];
    ranks: number;
    environment?: Readonly<Record<string, string>>;
  },
): Promise<string | undefined> {
  if (gpus.length < 2 || ranks < 2 || environment.DRI_PRIME !== undefined) return undefined;
  const files = await Promise.all(layerFolders(environment).map(listFolder));
  if (files.flat().some((name) => name.includes("device_select"))) return undefined;
  return `all ranks share the first of ${gpus.length} GPUs: Vulkan needs Mesa's device-select layer to give each its own; ` +
    "on Debian, `apt-get install mesa-vulkan-drivers` installs it beside any driver";
}

/** Where the Vulkan loader looks for layers that are always on (its LoaderInterfaceArchitecture, "Linux Layer Discovery"). */
function layerFolders(
  { HOME = "", XDG_DATA_HOME = `${HOME}/.local/share`, XDG_DATA_DIRS = "/usr/local/share:/usr/share", ...others }:
    Readonly<
      Record<string, string>
    >,
): string[] {
  const { XDG_CONFIG_HOME = `${HOME}/.config`, XDG_CONFIG_DIRS = "/etc/xdg" } = others;
  const roots = [XDG_CONFIG_HOME, ...XDG_CONFIG_DIRS.split(":"), "/etc", XDG_DATA_HOME, ...XDG_DATA_DIRS.split(":")];
  return roots.map((root) => `${root}/vulkan/implicit_layer.d`);
}

/**
 * Environment of every process that opens a GPU. Vulkan drivers of Linux complain without XDG_RUNTIME_DIR, as in
 * containers and services, although they need nothing from it.
 */
export function driverEnvironment(
  environment: Readonly<Record<string, string>> = Deno.env.toObject(),
): Record<string, string> {
  return Deno.build.os !== "linux" || environment.XDG_RUNTIME_DIR ? {} : { XDG_RUNTIME_DIR: "/tmp" };
}

/** PCI addresses behind the `renderD*` that have a device file, by where their `device` links to. */
async function listRenderNodes({ drm, dri }: DeviceFolders): Promise<string[]> {
  const usable = new Set(await listFolder(dri));
  const nodes = (await listFolder(drm)).filter((name) => name.startsWith("renderD") && usable.has(name));
  return await Promise.all(nodes.map((node) => linkTarget(`${drm}/${node}/device`)));
}

async function listPciGpus(folder: string): Promise<string[]> {
  const addresses = await listFolder(folder);
  const areGpus = await Promise.all(addresses.map(async (address) => {
    const pciClass = await Deno.readTextFile(`${folder}/${address}/class`).catch(() => "");
    return DISPLAY_CLASS.test(pciClass) && GPU_DRIVERS.includes(await linkTarget(`${folder}/${address}/driver`));
  }));
  return addresses.filter((_, i) => areGpus[i]);
}

/** Last part of the path that a link leads to; empty where there is none. */
async function linkTarget(path: string): Promise<string> {
  const target = await Deno.realPath(path).catch(() => "");
  return target.split("/").at(-1)!;
}

async function listFolder(folder: string): Promise<string[]> {
  try {
    return (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name);
  } catch {
    return [];
  }
}
