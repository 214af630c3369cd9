/**
 * Opens the GPU, prints what it is as one line of JSON, and ends. A process of its own, so that a driver that crashes or
 * hangs does not take the command with it.
 *
 * @module
 */

import { createWebGpuBackend } from "@mst/core";
import type { ProbedAdapter } from "./probe.ts";

if (import.meta.main) {
  await using backend = await createWebGpuBackend();
  const { deviceName, isSoftware } = backend;
  console.log(JSON.stringify({ deviceName, isSoftware } satisfies ProbedAdapter));
}
