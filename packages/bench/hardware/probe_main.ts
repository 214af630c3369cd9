/**
 * Opens the GPU by the implementation of WebGPU that the argument names, prints what it is as one line of JSON, and ends. A process of its own, so that a driver that crashes or
 * hangs does not take the command with it.
 *
 * @module
 */

import { createWebGpuBackend, type WebGpuProvider } from "@mst/core";
import type { ProbedAdapter } from "./probe.ts";

if (import.meta.main) {
  await using backend = await createWebGpuBackend({ provider: Deno.args[0] as WebGpuProvider });
  const { deviceName, isSoftware, dispatcher } = backend;
  const { subgroupMatrix } = dispatcher.features;
  console.log(JSON.stringify({ deviceName, isSoftware, subgroupMatrix } satisfies ProbedAdapter));
}
