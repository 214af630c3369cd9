/**
 * What every command derives from its flags in the same way: device, ranks and chunk counts.
 *
 * @module
 */

import type { Chunks, ModelConfig } from "@mst/core";
import { MAX_RANKS, type VerifyFlags } from "../cli/flags.ts";
import { UsageError } from "../cli/usage_error.ts";
import { autoRanks } from "../hardware/gpu_devices.ts";
import { DRIVER_HINT, type Hardware } from "../hardware/probe.ts";
import { type Mesh, strategyEntry, type StrategyName, type Topology } from "../scenario.ts";
import type { DeviceKind } from "./run_config.ts";

/** Flags of a hybrid's axes. */
export const HYBRID_FLAGS = ["ulysses", "ring"] as const;

/** How a sequence is spread over processes. */
export interface NamedTopology extends Topology {
  /** Strategy's name. */
  readonly strategy: StrategyName;
}

/**
 * Which backend computes.
 *
 * @throws {UsageError} when an implementation of WebGPU is asked for and there is no driver, or it is not installed
 */
export function resolveDevice(device: VerifyFlags["device"], hardware: Hardware): DeviceKind {
  const { adapter, dawn } = hardware;
  const asked = device === "dawn" ? dawn : hardware;
  if ((device === "dawn" || device === "webgpu") && !asked?.adapter) {
    throw new UsageError(`Cannot use --device=${device}: ${asked?.problem ?? "no GPU driver"}; ${DRIVER_HINT[device]}`);
  }
  if (device === "dawn" || device === "reference") return device;
  if (device !== "webgpu" && dawn?.adapter?.subgroupMatrix) return "dawn";
  return adapter ? "webgpu" : "reference";
}

/** Whether a backend computes on the CPU. */
export function isSoftwareDevice(device: DeviceKind, { adapter, dawn }: Hardware): boolean {
  return (device === "dawn" ? dawn?.adapter : adapter)?.isSoftware ?? true;
}

/**
 * Strategy, ranks, placement and, for a hybrid, its axes.
 *
 * @throws {UsageError} when they contradict each other
 */
export function resolveTopology(flags: VerifyFlags, gpus: readonly string[], model: ModelConfig): NamedTopology {
  const topology = resolveRanks(flags, gpus);
  const mesh = resolveMesh(flags, topology, model);
  return mesh ? { ...topology, mesh } : topology;
}

/**
 * Strategy, ranks and placement, which do not depend on the model.
 *
 * @throws {UsageError} when flags contradict each other
 */
export function resolveRanks(flags: VerifyFlags, gpus: readonly string[]): Omit<NamedTopology, "mesh"> {
  const { strategy = "ring", ranks = "auto", placement } = flags;
  const { isParallel, placements, mesh } = strategyEntry(strategy);
  if (!isParallel && ranks !== "auto" && ranks !== 1) {
    throw new UsageError(`Cannot use --ranks=${ranks} with --strategy=${strategy}: it runs on 1 rank`);
  }
  if (placement !== undefined && !placements.includes(placement)) {
    throw new UsageError(`Cannot use --placement=${placement} with --strategy=${strategy}: it leaves no choice`);
  }
  const axis = HYBRID_FLAGS.find((name) => flags[name] !== undefined);
  if (axis && !mesh) {
    throw new UsageError(`Cannot use --${axis}=${flags[axis]} with --strategy=${strategy}: its ranks have one axis`);
  }
  const found = isParallel ? autoRanks(gpus) : 1;
  return {
    strategy,
    ranks: axis ? hybridRanks(flags, found) : ranks === "auto" ? found : ranks,
    placement: placement ?? "zigzag",
  };
}

/** Ranks of a hybrid of which an axis is given; with `--ranks=auto`, as many as there is a GPU for. */
function hybridRanks({ ranks = "auto", ulysses, ring }: VerifyFlags, found: number): number {
  const product = (ulysses ?? 1) * (ring ?? 1);
  const isWhole = ulysses !== undefined && ring !== undefined;
  const given = [ulysses && `--ulysses=${ulysses}`, ring && `--ring=${ring}`].filter(Boolean).join(" and ");
  if (product > MAX_RANKS) {
    throw new UsageError(`Cannot use ${given}: they make ${product} ranks, wanted ${MAX_RANKS} at most`);
  }
  if (ranks === "auto") return isWhole ? product : product * Math.max(1, Math.floor(found / product));
  if (isWhole && product !== ranks) {
    throw new UsageError(`Cannot use ${given} with --ranks=${ranks}: they make ${product} ranks`);
  }
  if (ranks % product !== 0) {
    throw new UsageError(`Cannot use ${given} with --ranks=${ranks}: the ranks must be a multiple of ${product}`);
  }
  return ranks;
}

function resolveMesh(
  { ulysses, ring }: VerifyFlags,
  { strategy, ranks }: NamedTopology,
  model: ModelConfig,
): Mesh | undefined {
  const { mesh } = strategyEntry(strategy);
  if (ulysses !== undefined) return { ulysses, ring: ranks / ulysses };
  if (ring !== undefined) return { ulysses: ranks / ring, ring };
  return mesh?.(ranks, model);
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
