/**
 * The bench: scenarios, launcher, measurement and reports, where all packages meet.
 *
 * `main.ts` and `verify_main.ts` are its command lines; this module is for programs that launch ranks themselves; the
 * README has an example.
 *
 * @module
 */

export type { DeviceKind, RunConfig } from "./config/run_config.ts";
export { listGpus } from "./hardware/gpu_devices.ts";
export { launch, type LaunchOptions } from "./launcher/launch.ts";
export { RankFailedError } from "./launcher/rank_failure.ts";
export type {
  HostMeeting,
  HostShare,
  LaunchedRank,
  RankEvent,
  RankFailure,
  RankJob,
  RankResult,
} from "./launcher/rank_protocol.ts";
export { type RankSummary, type RunSummary, type Spread, summarize } from "./measure/summary.ts";
export { type Mesh, type Placement, STRATEGY_NAMES, type StrategyName } from "./scenario.ts";
export { type GoldenCase, readGoldenCase } from "./verify/golden_case.ts";
export { compare, type Comparison, type Tolerance, TOLERANCES } from "./verify/tolerance.ts";
