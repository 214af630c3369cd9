import { assertEquals, assertStringIncludes } from "@std/assert";
import {
  autoRanks,
  describeSharing,
  type DeviceFolders,
  listGpus,
  rankEnvironment,
} from "../../packages/bench/hardware/gpu_devices.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const ENVIRONMENT = { XDG_RUNTIME_DIR: "/run/user/1" };

/** A machine's device folders below `root`. */
async function machine(
  root: string,
  { nvidia = [], render = {}, files = [], pci = {} }: {
    nvidia?: string[];
    /** PCI address of each render node. */
    render?: Record<string, string>;
    /** Device files that exist. */
    files?: string[];
    /** Class and driver of each PCI device. */
    pci?: Record<string, [pciClass: string, driver?: string]>;
  },
): Promise<DeviceFolders> {
  const folders = { nvidia: `${root}/nvidia`, drm: `${root}/drm`, dri: `${root}/dri`, pci: `${root}/pci` };
  for (const folder of [...Object.values(folders), `${root}/drivers`]) await Deno.mkdir(folder);
  for (const address of nvidia) await Deno.mkdir(`${folders.nvidia}/${address}`);
  for (const [address, [pciClass, driver]] of Object.entries(pci)) {
    await Deno.mkdir(`${folders.pci}/${address}`);
    await Deno.writeTextFile(`${folders.pci}/${address}/class`, `${pciClass}\n`);
    if (driver === undefined) continue;
    await Deno.mkdir(`${root}/drivers/${driver}`, { recursive: true });
    await Deno.symlink(`${root}/drivers/${driver}`, `${folders.pci}/${address}/driver`);
  }
  for (const [node, address] of Object.entries(render)) {
    await Deno.mkdir(`${folders.drm}/${node}`);
    await Deno.mkdir(`${folders.pci}/${address}`, { recursive: true });
    await Deno.symlink(`${folders.pci}/${address}`, `${folders.drm}/${node}/device`);
  }
  for (const file of files) await Deno.writeTextFile(`${folders.dri}/${file}`, "");
  return folders;
}

Deno.test("a machine without these folders has no GPUs to choose from", async () => {
  const nowhere = "/nonexistent";
  assertEquals(await listGpus({ nvidia: nowhere, drm: nowhere, dri: nowhere, pci: nowhere }), []);
});

Deno.test("GPUs are those of NVIDIA's driver and render nodes with a device file, each once", () =>
  withTempDir(async (root) => {
    const folders = await machine(root, {
      nvidia: ["0000:1C:00.0", "0000:1b:00.0"],
      render: { renderD128: "0000:1b:00.0", renderD129: "0000:03:00.0", renderD130: "0000:04:00.0" },
      files: ["renderD128", "renderD129", "card0"],
    });
    assertEquals(await listGpus(folders), ["0000:03:00.0", "0000:1b:00.0", "0000:1c:00.0"]);
  }));

Deno.test("PCI devices count where nothing else does: display controllers with a driver of GPUs", () =>
  withTempDir(async (root) => {
    const folders = await machine(root, {
      pci: {
        "0000:02:00.0": ["0x030200", "nvidia"],
        "0000:03:00.0": ["0x030000", "ast"],
        "0000:04:00.0": ["0x030000", "amdgpu"],
        "0000:05:00.0": ["0x030000"],
        "0000:06:00.0": ["0x020000", "amdgpu"],
      },
    });
    assertEquals(await listGpus(folders), ["0000:02:00.0", "0000:04:00.0"]);
  }));

Deno.test("as many ranks as GPUs, and two where there is no choice", () => {
  assertEquals(["", "a", "ab", "abcd"].map((gpus) => autoRanks([...gpus])), [2, 2, 2, 4]);
});

Deno.test("ranks take turns on several GPUs", () => {
  const gpus = ["0000:1b:00.0", "0000:1c:00.0"];
  const of = (rank: number) => rankEnvironment(gpus, rank, ENVIRONMENT).DRI_PRIME;
  assertEquals([0, 1, 2].map(of), ["pci-0000_1b_00_0", "pci-0000_1c_00_0", "pci-0000_1b_00_0"]);
});

Deno.test("one GPU, and a choice that the user made, leave the environment alone", () => {
  assertEquals(rankEnvironment(["0000:1b:00.0"], 0, ENVIRONMENT), {});
  assertEquals(rankEnvironment(["0000:1b:00.0", "0000:1c:00.0"], 1, { ...ENVIRONMENT, DRI_PRIME: "1" }), {});
});

Deno.test("ranks are said to share a GPU where Vulkan has no layer that gives each its own", () =>
  withTempDir(async (root) => {
    const folder = `${root}/vulkan/implicit_layer.d`;
    await Deno.mkdir(folder, { recursive: true });
    await Deno.writeTextFile(`${folder}/some_layer.json`, "{}");
    const names = ["HOME", "XDG_DATA_HOME", "XDG_DATA_DIRS", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"];
    const environment = Object.fromEntries(names.map((name) => [name, `${root}/nothing`]));
    const gpus = ["0000:1b:00.0", "0000:1c:00.0"];
    const described = (changes: Record<string, string> = {}, some = { gpus, ranks: 2 }) =>
      describeSharing({ ...some, environment: { ...environment, XDG_DATA_DIRS: root, ...changes } });
    assertStringIncludes(await described() ?? "", "all ranks share the first of 2 GPUs");
    assertEquals(await described({ DRI_PRIME: "1" }), undefined);
    assertEquals(await described({}, { gpus: gpus.slice(1), ranks: 2 }), undefined);
    assertEquals(await described({}, { gpus, ranks: 1 }), undefined);
    await Deno.writeTextFile(`${folder}/VkLayer_MESA_device_select.json`, "{}");
    assertEquals(await described(), undefined);
  }));
