/**
 * What a report says of where and how it was made.
 *
 * @module
 */

import denoConfig from "../deno.json" with { type: "json" };

/** Where and how a report was made. */
export interface ReportEnvironment {
  /** Date and time, ISO 8601 in UTC. */
  readonly date: string;
  /** The command line. */
  readonly command: string;
  /** Versions of what ran. */
  readonly versions: { readonly mst: string; readonly deno: string; readonly v8: string; readonly typescript: string };
  /** The machine. */
  readonly host: {
    /** Operating system and processor architecture. */
    readonly system: string;
    /** Name of the processor, where the system says. */
    readonly cpu?: string;
    /** Logical processors. */
    readonly cores: number;
    /** Bytes of memory. */
    readonly memoryBytes: number;
    /** PCI addresses of the GPUs. */
    readonly gpus: readonly string[];
  };
}

/** Describes this machine and command. */
export async function describeEnvironment(
  command: "bench" | "verify",
  gpus: readonly string[],
): Promise<ReportEnvironment> {
  const cpuInfo = await Deno.readTextFile("/proc/cpuinfo").catch(() => "");
  const [, cpu] = cpuInfo.match(/^model name\s*: (.*)$/m) ?? [];
  return {
    date: new Date().toISOString(),
    command: ["deno task", command, ...Deno.args].join(" "),
    versions: { mst: denoConfig.version, ...Deno.version },
    host: {
      system: `${Deno.build.os} ${Deno.build.arch}`,
      cpu,
      cores: navigator.hardwareConcurrency,
      memoryBytes: Deno.systemMemoryInfo().total,
      gpus,
    },
  };
}
