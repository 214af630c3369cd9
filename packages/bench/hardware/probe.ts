/**
 * Finding out what this machine computes on.
 *
 * @module
 */

import { driverEnvironment, listGpus } from "./gpu_devices.ts";

/** The GPU that WebGPU opens. */
export interface ProbedAdapter {
  /** Its name. */
  readonly deviceName: string;
  /** Whether a software driver computes on the CPU. */
  readonly isSoftware: boolean;
}

/** What this machine computes on. */
export interface Hardware {
  /** The GPU that WebGPU opens; absent where there is no driver, or it does not work. */
  readonly adapter?: ProbedAdapter;
  /** Why there is no adapter. */
  readonly problem?: string;
  /** PCI addresses of the GPUs. */
  readonly gpus: readonly string[];
}

/** Longest wait for a driver; opening the first GPU of a machine with eight takes some seconds. */
const PROBE_TIMEOUT_MS = 60_000;

/** How to get a driver, in a line. */
export const DRIVER_HINT = "on Debian, `apt-get install mesa-vulkan-drivers` installs one that needs no GPU";

/** Looks for a GPU in a process of its own. */
export async function probeHardware(): Promise<Hardware> {
  const [gpus, probed] = await Promise.all([listGpus(), probeAdapter()]);
  return { gpus, ...probed };
}

async function probeAdapter(): Promise<Pick<Hardware, "adapter" | "problem">> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--allow-all", import.meta.resolve("./probe_main.ts")],
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
  if (/NoGpuError/.test(stderr)) return "no GPU driver";
  if (signal !== null) return `the GPU driver does not work: it was ended by ${signal}`;
  const line = stderr.split("\n").map((each) => each.trim()).find((each) => /error/i.test(each));
  return `the GPU driver does not work: ${line ?? "it gives no reason"}`;
}
