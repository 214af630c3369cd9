/**
 * What every command derives from its flags in the same way: device, ranks and chunk counts.
 *
 * @module
 */

import type { Chunks } from "@mst/core";
import type { VerifyFlags } from "../cli/flags.ts";
import { UsageError } from "../cli/usage_error.ts";
import { autoRanks } from "../hardware/gpu_devices.ts";
import { DRIVER_HINT, type Hardware } from "../hardware/probe.ts";
import { type Placement, strategyEntry, type StrategyName } from "../scenario.ts";
import type { DeviceKind } from "./run_config.ts";

/** How a sequence is spread over processes. */
export interface Topology {
  /** Strategy's name. */
  readonly strategy: StrategyName;
  /** GPU processes. */
  readonly ranks: number;
  /** Which tokens a rank owns. */
  readonly placement: Placement;
}

/**
 * Which backend computes.
 *
 * @throws {UsageError} when WebGPU is asked for and there is no driver
 */
export function resolveDevice(device: VerifyFlags["device"], { adapter, problem }: Hardware): DeviceKind {
  if (device === "webgpu" && !adapter) {
    throw new UsageError(`Cannot use --device=webgpu: ${problem ?? "no GPU driver"}; ${DRIVER_HINT}`);
  }
  return device === "reference" || !adapter ? "reference" : "webgpu";
}

/**
 * Strategy, ranks and placement.
 *
 * @throws {UsageError} when they contradict each other
 */
export function resolveTopology(flags: VerifyFlags, gpus: readonly string[]): Topology {
  const { strategy = "ring", ranks = "auto", placement } = flags;
  const { isParallel, placements } = strategyEntry(strategy);
  if (!isParallel && ranks !== "auto" && ranks !== 1) {
    throw new UsageError(`Cannot use --ranks=${ranks} with --strategy=${strategy}: it runs on 1 rank`);
  }
  if (placement !== undefined && !placements.includes(placement)) {
    throw new UsageError(`Cannot use --placement=${placement} with --strategy=${strategy}: it leaves no choice`);
  }
  if (ranks !== "auto") return { strategy, ranks, placement: placement ?? "zigzag" };
  return { strategy, ranks: isParallel ? autoRanks(gpus) : 1, placement: placement ?? "zigzag" };
}

/** Mini-sequences per MLP and per LM head. */
export function resolveChunks(flags: VerifyFlags): { mlpChunks: Chunks; headChunks: Chunks } {
  const count = (given: number | "auto" | "off" | undefined): Chunks => {
    const value = given ?? flags["mini-sequence"] ?? "auto";
    return value === "off" ? 1 : value;
  };
  return { mlpChunks: count(flags["mlp-chunks"]), headChunks: count(flags["head-chunks"]) };
}

/**
 * Refuses a file that could not be written after a long run.
 *
 * @throws {UsageError} when the file or its folder cannot be written to
 */
export async function checkWritable(path: string | undefined): Promise<void> {
  if (path === undefined) return;
  const isNew = await Deno.stat(path).then(() => false, () => true);
  try {
    (await Deno.open(path, { append: true, create: true })).close();
    if (isNew) await Deno.remove(path);
  } catch (cause) {
    throw new UsageError(`Cannot use --json=${path}: ${(cause as Error).message}`, { cause });
  }
}
