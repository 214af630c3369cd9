/**
 * Finding out what this machine computes on.
 *
 * @module
 */

import type { WebGpuProvider } from "@mst/core";
import { driverEnvironment, listGpus } from "./gpu_devices.ts";

/** The GPU that WebGPU opens. */
export interface ProbedAdapter {
  /** Its name. */
  readonly deviceName: string;
  /** Whether a software driver computes on the CPU. */
  readonly isSoftware: boolean;
  /** Whether kernels may use subgroup matrices. */
  readonly subgroupMatrix?: boolean;
}

/** What an implementation of WebGPU opens, or why it opens nothing. */
export interface ProbedProvider {
  /** The GPU; absent where there is no driver, or it does not work. */
  readonly adapter?: ProbedAdapter;
  /** Why there is no adapter. */
  readonly problem?: string;
}

/** What this machine computes on. */
export interface Hardware extends ProbedProvider {
  /** By Dawn, the same as by Deno's WebGPU otherwise; absent where nobody asked. */
  readonly dawn?: ProbedProvider;
  /** PCI addresses of the GPUs. */
  readonly gpus: readonly string[];
}

/** Longest wait for a driver; opening the first GPU of a machine with eight takes some seconds. */
const PROBE_TIMEOUT_MS = 60_000;

/** How to get a driver for a `--device`, in a line. */
export const DRIVER_HINT = {
  webgpu: "on Debian, `apt-get install mesa-vulkan-drivers` installs one that needs no GPU",
  dawn: "it needs a GPU's driver, or Mesa 23 or newer, which Debian 12 has in bookworm-backports",
} as const;

/** Looks for what a `--device` may mean, each implementation of WebGPU in a process of its own. */
export async function probeHardware(device: "auto" | "dawn" | "webgpu" | "reference" = "auto"): Promise<Hardware> {
  if (device === "reference") return { gpus: [] };
  const [gpus, probed, dawn] = await Promise.all([
    listGpus(),
    device === "dawn" ? {} : probeProvider("deno"),
    device === "webgpu" ? undefined : probeProvider("dawn"),
  ]);
  return { gpus, ...probed, dawn };
}

async function probeProvider(provider: WebGpuProvider): Promise<ProbedProvider> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--allow-all", import.meta.resolve("./probe_main.ts"), provider],
    env: driverEnvironment(),
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(PROBE_TIMEOUT_MS),
  });
  const { success, signal, stdout, stderr } = await command.output();
  if (success) return { adapter: JSON.parse(new TextDecoder().decode(stdout)) };
  return { problem: describeProblem(signal, new TextDecoder().decode(stderr)) };
}

function describeProblem(signal: Deno.Signal | null, stderr: string): string {
  if (/NoGpuError: Cannot load Dawn/.test(stderr)) {
    return "the npm package webgpu is not installed, or has no build for this system: `npx -y deno@2.9.6 install` installs it";
  }
  if (/NoGpuError/.test(stderr)) return "no GPU driver";
  if (signal !== null) return `the GPU driver does not work: it was ended by ${signal}`;
  const line = stderr.split("\n").map((each) => each.trim()).find((each) => /error/i.test(each));
  return `the GPU driver does not work: ${line ?? "it gives no reason"}`;
}
