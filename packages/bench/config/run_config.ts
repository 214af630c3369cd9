/**
 * The whole validated configuration of a run, as plain data.
 *
 * @module
 */

import type { ModelConfig, TrainConfig } from "@mst/core";
import type { Mesh, Placement, StrategyName } from "../scenario.ts";

/** Which backend computes. */
export type DeviceKind = "webgpu" | "reference";

/** One training run. */
export interface RunConfig {
  /** How the sequence is spread over ranks. */
  readonly strategy: StrategyName;
  /** GPU processes R. */
  readonly ranks: number;
  /** Which tokens a rank owns. */
  readonly placement: Placement;
  /** Axes of a hybrid's ranks. */
  readonly mesh?: Mesh;
  /** Which backend computes. */
  readonly device: DeviceKind;
  /** Name of the preset, or folder of the model. */
  readonly modelName: string;
  /** Shape of the model. */
  readonly model: ModelConfig;
  /** Folder that the weights are read from; initialised from the seed when left out. */
  readonly weightsFolder?: string;
  /** How it is trained. */
  readonly train: TrainConfig;
  /** Device bytes of tensors that a rank may hold at a time; any number when left out. */
  readonly memoryBudgetBytes?: number;
  /** First steps that the summary leaves out. */
  readonly warmup: number;
  /** Text to train on; Moby Dick when left out. */
  readonly dataFile?: string;
  /** Whether kernels are timed. */
  readonly profile: boolean;
  /** Seconds without a sign of life after which a rank is given up. */
  readonly timeoutSeconds: number;
}

/** What `deno task bench` is asked to do. */
export interface BenchPlan {
  /** The run. */
  readonly run: RunConfig;
  /** Whether it is one run, three side by side, or one against a single rank. */
  readonly mode: "train" | "compare" | "verify";
  /** File of the JSON report. */
  readonly jsonFile?: string;
}

/** Tokens of one step, over all ranks. */
export function stepTokens({ seqTokens, batch, accumulate }: TrainConfig): number {
  return seqTokens * batch * accumulate;
}
