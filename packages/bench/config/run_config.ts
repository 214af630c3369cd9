/**
 * The whole validated configuration of a run, as plain data.
 *
 * @module
 */

import type { ModelConfig, SavedText, TrainConfig } from "@mst/core";
import type { Mesh, Placement, StrategyName } from "../scenario.ts";

/** Which backend computes: WebGPU by Dawn or by Deno, or the reference. */
export type DeviceKind = "dawn" | "webgpu" | "reference";

/** Where checkpoints go. */
export interface SaveConfig {
  /** Folder, as rank 0 sees it. */
  readonly folder: string;
  /** Steps between checkpoints; one after the last step alone when left out. */
  readonly everySteps?: number;
  /** What checkpoints say of the training text. */
  readonly text: SavedText;
}

/** A checkpoint that a run goes on from. */
export interface ResumeConfig {
  /** Its folder. */
  readonly folder: string;
  /** The step that it was saved after. */
  readonly step: number;
}

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
  /** The checkpoint that it goes on from. */
  readonly resume?: ResumeConfig;
  /** Whether it saves checkpoints, and where. */
  readonly save?: SaveConfig;
  /** Device bytes of tensors that a rank may hold at a time; any number when left out. */
  readonly memoryBudgetBytes?: number;
  /** First steps that the summary leaves out. */
  readonly warmup: number;
  /** Text to train on; Moby Dick when left out. */
  readonly dataFile?: string;
  /** What lies between the documents of a packed plain text; blank lines when left out. */
  readonly separator?: string;
  /** Whether kernels are timed. */
  readonly profile: boolean;
  /** Seconds without a sign of life after which a rank is given up. */
  readonly timeoutSeconds: number;
}

/** Flags of the modes that are sets of runs; without one of them there is one run. */
export const MODE_FLAGS = ["compare", "compare-strategies", "verify", "longest"] as const;

/** A run of a set, or why there is none. */
export interface PlannedRun {
  /** What it is called. */
  readonly name: string;
  /** How it is made. */
  readonly config: RunConfig;
  /** Why the strategy cannot serve it. */
  readonly unsupported?: string;
}

/** What `deno task bench` is asked to do. */
export interface BenchPlan {
  /** The run; of `--compare-strategies` the one that the others are compared with. */
  readonly run: RunConfig;
  /** Which runs are made of it. */
  readonly mode: "train" | (typeof MODE_FLAGS)[number];
  /** The runs of `--compare-strategies`, else none. */
  readonly runs: readonly PlannedRun[];
  /** Most tokens that the text has for a sequence. */
  readonly maxTokens: number;
  /** File of the JSON report. */
  readonly jsonFile?: string;
}

/** Steps that a run takes itself. */
export function ownSteps({ train, resume }: RunConfig): number {
  return train.steps - (resume?.step ?? 0);
}

/** The same run on one rank, which no budget bounds. */
export function singleRank(run: RunConfig): RunConfig {
  return { ...run, strategy: "single", ranks: 1, mesh: undefined, memoryBudgetBytes: undefined };
}

/** Where the search for the longest sequence looks, in tokens. */
export interface LengthSearch {
  /** Length that is tried first. */
  readonly startTokens: number;
  /** Lengths are told apart down to this. */
  readonly unitTokens: number;
  /** Shortest length. */
  readonly minTokens: number;
  /** Longest length. */
  readonly maxTokens: number;
}

/** Tokens of one step, over all ranks. */
export function stepTokens({ seqTokens, batch, accumulate }: TrainConfig): number {
  return seqTokens * batch * accumulate;
}
