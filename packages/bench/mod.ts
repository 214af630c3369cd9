/**
 * The bench: scenarios, launcher, measurement and reports, where all packages meet.
 *
 * `main.ts` and `verify_main.ts` are its command lines; this module is for programs that launch ranks themselves.
 *
 * @example Train over a ring of two ranks and read the losses
 * ```ts
 * import { launch, summarize } from "@mst/bench";
 * import { MODEL_PRESETS, parseTrainConfig } from "@mst/core";
 *
 * const run = {
 *   strategy: "ring",
 *   ranks: 2,
 *   placement: "zigzag",
 *   device: "reference",
 *   modelName: "tiny",
 *   model: MODEL_PRESETS.tiny,
 *   train: parseTrainConfig({ seqTokens: 64, steps: 3 }),
 *   warmup: 1,
 *   profile: false,
 *   timeoutSeconds: 60,
 * } as const;
 * const ranks = await launch({ job: { run }, gpus: [] });
 * console.log(summarize(run, ranks).losses);
 * ```
 *
 * @module
 */

export type { DeviceKind, RunConfig } from "./config/run_config.ts";
export { listGpus } from "./hardware/gpu_devices.ts";
export { launch, type LaunchedRank, type LaunchOptions } from "./launcher/launch.ts";
export { RankFailedError } from "./launcher/rank_failure.ts";
export type { RankEvent, RankFailure, RankJob, RankResult } from "./launcher/rank_protocol.ts";
export { type RankSummary, type RunSummary, type Spread, summarize } from "./measure/summary.ts";
export { type Placement, STRATEGY_NAMES, type StrategyName } from "./scenario.ts";
export { type GoldenCase, readGoldenCase } from "./verify/golden_case.ts";
export { compare, type Comparison, type Tolerance, TOLERANCES } from "./verify/tolerance.ts";
