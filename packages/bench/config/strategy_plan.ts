/**
 * The runs of `--compare-strategies`.
 *
 * @module
 */

import { checkPrecision, checkUpdateInBackward, type ModelConfig, type TrainConfig } from "@mst/core";
import type { BenchFlags } from "../cli/flags.ts";
import { STRATEGY_NAMES, strategyEntry, type StrategyName } from "../scenario.ts";
import type { PlannedRun, RunConfig } from "./run_config.ts";
import { HYBRID_FLAGS, type NamedTopology, resolveRanks, resolveTopology } from "./run_options.ts";

/** How many times longer the second sequences are. */
const LENGTHS = [1, 2] as const;

/**
 * One rank, then every strategy that runs on several, at the length of `single` and at twice that. What a strategy cannot
 * serve is planned with the reason. Sharding applies where weights are whole.
 *
 * @param single the control: the same run on one rank, without a memory budget
 * @throws {UsageError} when ranks and axes contradict each other
 */
export function planStrategies(single: RunConfig, flags: BenchFlags, gpus: readonly string[]): PlannedRun[] {
  const { model, train } = single;
  const topologies = parallelTopologies(flags, gpus, model);
  return LENGTHS.flatMap((times) => {
    const control = { ...single, train: { ...train, seqTokens: times * train.seqTokens } };
    return [
      { name: single.strategy, config: control },
      ...topologies.map((topology) => planned(control, topology, flags)),
    ];
  });
}

function planned(control: RunConfig, topology: NamedTopology, flags: BenchFlags): PlannedRun {
  const { strategy, mesh } = topology;
  const train: TrainConfig = strategyEntry(strategy).splitsWeights
    ? { ...control.train, shard: "none" }
    : control.train;
  const config: RunConfig = { ...control, ...topology, train, memoryBudgetBytes: flags["memory-budget"] };
  const name = mesh ? `${strategy} ${mesh.ulysses} x ${mesh.ring}` : strategy;
  try {
    checkStrategy(config);
    return { name, config };
  } catch (error) {
    if (error instanceof RangeError) return { name, config, unsupported: error.message };
    throw error;
  }
}

/** Every strategy that runs on several ranks, on the same number of them; flags apply to those that have a use for them. */
function parallelTopologies(flags: BenchFlags, gpus: readonly string[], model: ModelConfig): NamedTopology[] {
  const names = STRATEGY_NAMES.filter((name) => strategyEntry(name).isParallel);
  const hybrid = names.find((name) => strategyEntry(name).mesh);
  const { ranks } = resolveRanks({ ...flagsOf(hybrid ?? names[0], flags) }, gpus);
  return names.map((name) => resolveTopology({ ...flagsOf(name, flags), ranks }, gpus, model));
}

function flagsOf(strategy: StrategyName, flags: BenchFlags): BenchFlags {
  const { mesh, placements } = strategyEntry(strategy);
  const given: Record<string, unknown> = { ...flags, strategy };
  if (!mesh) { for (const axis of HYBRID_FLAGS) delete given[axis]; }
  if (placements.length === 0) delete given.placement;
  return given;
}

/**
 * Refuses what a run's strategy cannot serve.
 *
 * @throws {RangeError} when its size, sharding, precision or updates do not go together with the strategy
 */
export function checkStrategy(run: RunConfig): void {
  const { strategy, model, train } = run;
  const { check, activations, splitsWeights } = strategyEntry(strategy);
  check(run, train, model);
  checkUpdateInBackward({ name: strategy, ranks: run.ranks, splitsWeights }, train);
  checkPrecision(model, train, { name: strategy, activations });
}
