/**
 * The files of a checkpoint, and whether they belong together.
 *
 * @module
 */

import type { ModelConfig } from "../config/model_config.ts";
import { parameterSpecs } from "../model/parameters.ts";
import { sameShape } from "../tensor/shape.ts";
import { CheckpointError, checkReplaceable, recoverFolder } from "./checkpoint_folder.ts";
import { readModelFolder } from "./model_folder.ts";
import { SafetensorsFile } from "./safetensors.ts";
import { safetensorsBytes, type SafetensorsMetadata, type TensorHead } from "./safetensors_writer.ts";
import { parseTrainerState, type TrainerState } from "./trainer_state.ts";

/** Names of a checkpoint's files. */
export const CHECKPOINT_FILES = {
  config: "config.json",
  weights: "model.safetensors",
  moments: "optimizer.safetensors",
  state: "trainer_state.json",
} as const;

/** What the safetensors files of a checkpoint hold. */
export interface CheckpointHeads {
  /** Weights, in the order in which they are written. */
  readonly weights: readonly TensorHead[];
  /** Moments, two for each weight. */
  readonly moments: readonly TensorHead[];
  /** Metadata of both. */
  readonly metadata: SafetensorsMetadata;
}

/** Names of the moments of a weight, as torch's AdamW calls them. */
export function momentNames(weight: string): { readonly m: string; readonly v: string } {
  return { m: `exp_avg.${weight}`, v: `exp_avg_sq.${weight}` };
}

/** Headers of the files of a checkpoint. Their step tells files apart that were mixed up. */
export function checkpointHeads(model: ModelConfig, step: number): CheckpointHeads {
  const head = (name: string, { shape }: Pick<TensorHead, "shape">): TensorHead => ({ name, dtype: "F32", shape });
  const specs = parameterSpecs(model);
  return {
    weights: specs.map((spec) => head(spec.name, spec)),
    moments: specs.flatMap((spec) => Object.values(momentNames(spec.name)).map((name) => head(name, spec))),
    metadata: { format: "pt", step: String(step) }, // transformers asks for the format
  };
}

/** A checkpoint whose files are whole and belong together. */
export interface Checkpoint {
  /** Shape of its model. */
  readonly model: ModelConfig;
  /** How far training has come, and how it goes on. */
  readonly state: TrainerState;
}

/**
 * Looks at a checkpoint without reading its tensors: every file is there and as long as it says, of the same step, and
 * has the tensors of the model. One whose replacement was cut short is put back first.
 *
 * @throws {CheckpointError} when it is not
 */
export async function readCheckpoint(folder: string): Promise<Checkpoint> {
  try {
    await recoverFolder(folder.replace(/(?<=.)\/+$/, ""));
    const state = await readTrainerState(folder);
    const model = await readModelFolder(folder);
    const heads = checkpointHeads(model, state.step);
    for (const name of ["weights", "moments"] as const) {
      await checkTensors(`${folder}/${CHECKPOINT_FILES[name]}`, heads[name], heads.metadata.step);
    }
    return { model, state };
  } catch (cause) {
    throw new CheckpointError(`Cannot go on from ${folder}: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Refuses a folder to which no checkpoint could be saved after a long run.
 *
 * @param model what will be saved, where it is known; the disk must have room for it
 * @throws {CheckpointError} when it holds something else, cannot be written, or the disk has no room
 */
export async function checkSavable(folder: string, model?: ModelConfig): Promise<void> {
  const bytes = model ? checkpointBytes(model) : 0;
  await checkReplaceable(folder, { mark: CHECKPOINT_FILES.state, bytes });
}

function checkpointBytes(model: ModelConfig): number {
  const { weights, moments, metadata } = checkpointHeads(model, 0);
  return safetensorsBytes(weights, metadata) + safetensorsBytes(moments, metadata);
}

/**
 * What trainer_state.json of a checkpoint says.
 *
 * @throws {TypeError} when it cannot be read, or is not one that this version writes
 */
export async function readTrainerState(folder: string): Promise<TrainerState> {
  return await readState(`${folder}/${CHECKPOINT_FILES.state}`);
}

async function readState(path: string): Promise<TrainerState> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (cause) {
    throw new TypeError(`it has no readable ${CHECKPOINT_FILES.state} (${(cause as Error).message})`, { cause });
  }
  try {
    return parseTrainerState(JSON.parse(text));
  } catch (cause) {
    const why = (cause as Error).message.replaceAll("\n", ", ");
    throw new TypeError(`its ${CHECKPOINT_FILES.state} is not one that this version writes (${why})`, { cause });
  }
}

async function checkTensors(path: string, heads: readonly TensorHead[], step: string): Promise<void> {
  using file = await SafetensorsFile.open(path);
  const refuse = (what: string) => new TypeError(`${path} ${what}`);
  for (const { name, dtype, shape } of heads) {
    const entry = file.entries.get(name);
    if (!entry) throw refuse(`has no ${name}`);
    if (entry.dtype !== dtype || !sameShape(entry.shape, shape)) {
      throw refuse(`has ${name} of ${entry.dtype} [${entry.shape}], wanted ${dtype} [${shape}]`);
    }
  }
  if (file.entries.size > heads.length) {
    const known = new Set(heads.map(({ name }) => name));
    throw refuse(`has ${file.entries.keys().find((name) => !known.has(name))}, which the model of config.json lacks`);
  }
  if (file.metadata.step !== step) {
    throw refuse(`is of step ${file.metadata.step}, wanted ${step} by ${CHECKPOINT_FILES.state}`);
  }
}
