/**
 * What `--save` and `--resume` ask for.
 *
 * @module
 */

import {
  type Checkpoint,
  CheckpointError,
  checkSavable,
  type ModelConfig,
  momentType,
  readCheckpoint,
  type SavedText,
  type TokenizedText,
} from "@mst/core";
import type { BenchFlags } from "../cli/flags.ts";
import { UsageError } from "../cli/usage_error.ts";
import { MODE_FLAGS, type RunConfig } from "./run_config.ts";

/** Flags that are refused with sets of runs, and why. */
const REFUSED_IN_SETS = {
  save: "its runs have no single result",
  resume: "its runs start from the first step",
} as const;

/**
 * The checkpoint of `--resume`, if there is one.
 *
 * @throws {UsageError} when it is not whole, or flags ask for both it and something else
 */
export async function readResume(flags: BenchFlags): Promise<Checkpoint | undefined> {
  const mode = MODE_FLAGS.find((name) => flags[name]);
  for (const [name, why] of Object.entries(REFUSED_IN_SETS)) {
    if (mode && flags[name as keyof typeof REFUSED_IN_SETS] !== undefined) {
      throw new UsageError(`Cannot use --${name} with --${mode}: ${why}`);
    }
  }
  if (flags["save-every"] !== undefined && flags.save === undefined) {
    throw new UsageError("Cannot use --save-every without --save: it has to know the folder");
  }
  const { resume } = flags;
  if (resume === undefined) return undefined;
  const checkpoint = await refusing(() => readCheckpoint(resume));
  refuseContradictions(flags, checkpoint);
  return checkpoint;
}

/** Flags of the training text, with those of the checkpoint where none are given. */
export function textFlags(flags: BenchFlags, checkpoint?: Checkpoint): Pick<BenchFlags, "data" | "pack" | "separator"> {
  const text = checkpoint?.state.text;
  if (!text) return flags;
  const { data = text.file, pack = checkpoint.state.train.packed || undefined, separator = text.separator } = flags;
  return { data, pack, separator };
}

/** What a checkpoint says of the text. */
export async function describeText(
  { tokens }: TokenizedText,
  { data, separator }: { readonly data?: string; readonly separator?: string },
): Promise<SavedText> {
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength) as Uint8Array<ArrayBuffer>;
  const sha256 = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
  const file = data === undefined ? undefined : await Deno.realPath(data);
  return { file, separator, tokens: tokens.length, sha256 };
}

/**
 * Refuses a text other than that of the checkpoint.
 *
 * @throws {UsageError} with what both are
 */
export function checkSameText(flags: BenchFlags, found: SavedText, { state }: Checkpoint): void {
  const { text, train } = state;
  if (!text || (text.sha256 === found.sha256 && text.tokens === found.tokens)) return;
  const describe = ({ tokens, sha256 }: SavedText) => `${tokens} tokens with SHA-256 ${sha256.slice(0, 16)}`;
  const what = flags.data === undefined ? text.file ?? "Moby Dick" : `--data=${flags.data}`;
  throw new UsageError(
    `Cannot use ${what} with --resume=${flags.resume}: it has ${describe(found)}, wanted ${describe(text)}` +
      (train.packed ? " as documents" : ""),
  );
}

/** Steps that were taken before the run, and the number that it ends with. */
export interface PlannedSteps {
  /** Steps of the checkpoint; 0 without one. */
  readonly taken: number;
  /** Number of the last step. */
  readonly last: number;
}

/**
 * Which steps a run takes.
 *
 * @param otherwise number of the last step where neither flags nor checkpoint say
 * @throws {UsageError} when none are left
 */
export function planSteps(flags: BenchFlags, checkpoint: Checkpoint | undefined, otherwise: number): PlannedSteps {
  if (!checkpoint) return { taken: 0, last: flags.steps ?? otherwise };
  const { step, train } = checkpoint.state;
  const last = flags.steps ?? train.steps;
  if (last > step) return { taken: step, last };
  if (flags.steps === undefined) {
    throw new UsageError(
      `Cannot use --resume=${flags.resume} without --steps: it was saved after step ${step} of ${train.steps}, ` +
        "wanted the number of a later step",
    );
  }
  throw new UsageError(
    `Cannot use --resume=${flags.resume} with --steps=${last}: it was saved after step ${step}, wanted more steps`,
  );
}

/** What a run does with checkpoints. */
export function planCheckpoints(
  { save: folder, "save-every": everySteps, resume }: BenchFlags,
  { taken }: PlannedSteps,
  text?: SavedText,
): Pick<RunConfig, "save" | "resume"> {
  return {
    ...(resume !== undefined && { resume: { folder: resume, step: taken } }),
    ...(folder !== undefined && { save: { folder, everySteps, text: text! } }),
  };
}

/**
 * Refuses a folder to which rank 0 could not save after a long run; other hosts do not save.
 *
 * @param model what will be saved, once it is known
 * @throws {UsageError} when the folder holds something else, cannot be written, or the disk has no room
 */
export async function checkSaveFolder({ save, rank }: BenchFlags, model?: ModelConfig): Promise<void> {
  if (save === undefined || rank?.includes(0) === false) return;
  await refusing(() => checkSavable(save, model));
}

function refuseContradictions(flags: BenchFlags, { model, state }: Checkpoint): void {
  const { train } = state;
  const saved: Partial<Record<keyof BenchFlags, unknown>> = {
    "dim": model.dim,
    "layers": model.layers,
    "heads": model.heads,
    "kv-heads": model.kvHeads,
    "ffn": model.ffn,
    "vocab": model.vocab,
    "seq": train.seqTokens,
    "batch": train.batch,
    "accumulate": train.accumulate,
    "seed": train.seed,
    "lr": train.learningRate,
    "lr-warmup": train.warmupSteps,
    "schedule": train.schedule,
    "clip": train.clipNorm,
    "precision": train.precision,
    "optimizer-states": momentType(train),
  };
  const refuse = (flag: string, why: string) => {
    const anew = `to change it, --model=${flags.resume} starts anew from its weights`;
    return new UsageError(`Cannot use ${flag} with --resume=${flags.resume}: ${why}; ${anew}`);
  };
  if (flags.model !== undefined) throw refuse(`--model=${flags.model}`, "the checkpoint has a model");
  for (const [name, value] of Object.entries(saved)) {
    const given = flags[name as keyof BenchFlags];
    if (given !== undefined && given !== value) throw refuse(`--${name}=${given}`, `it was saved with ${value}`);
  }
  if (flags.pack && !train.packed) throw refuse("--pack", "it was saved without");
}

async function refusing<T>(check: () => Promise<T>): Promise<T> {
  try {
    return await check();
  } catch (error) {
    if (error instanceof CheckpointError) throw new UsageError(error.message, { cause: error });
    throw error;
  }
}
