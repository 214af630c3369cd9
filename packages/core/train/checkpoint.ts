/**
 * Checkpoints: a model folder as transformers loads it, and beside it what training needs to go on.
 *
 * config.json and model.safetensors are the model; optimizer.safetensors holds AdamW's moments as `exp_avg.NAME` and
 * `exp_avg_sq.NAME`, and trainer_state.json the rest. Tensors are whole, so that any strategy on any number of ranks goes
 * on from them. They pass through rank 0 one at a time.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { toHfConfig } from "../config/hf_config.ts";
import type { ModelConfig } from "../config/model_config.ts";
import type { TrainConfig } from "../config/train_config.ts";
import { parameterSpecs } from "../model/parameters.ts";
import type { ModelStates, OwnElements } from "../sharding/model_states.ts";
import { type PartRuns, putPart } from "../sharding/weight_part.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import type { NamedShape } from "../strategy/tensor_parallel.ts";
import { elementCount } from "../tensor/shape.ts";
import { release } from "../transport/release.ts";
import { SharedMemory } from "../transport/shared_memory.ts";
import { replaceFolder } from "./checkpoint_folder.ts";
import { CHECKPOINT_FILES, type CheckpointHeads, checkpointHeads, momentNames } from "./checkpoint_files.ts";
import type { LossScaleState } from "./loss_scale.ts";
import { type MomentKind, readInPieces } from "./moments.ts";
import type { Optimizer } from "./optimizer.ts";
import { SafetensorsFile } from "./safetensors.ts";
import { SafetensorsWriter } from "./safetensors_writer.ts";
import { type SavedText, trainerState } from "./trainer_state.ts";
import { END_TOKEN } from "./training_text.ts";

/** The states of one rank. */
export interface RankStates {
  /** Device of the states. */
  readonly backend: Backend;
  /** How ranks meet. */
  readonly strategy: SequenceStrategy;
  /** Shape of the model. */
  readonly model: ModelConfig;
  /** Weights, and which elements of them a rank updates. */
  readonly states: ModelStates;
  /** Moments. */
  readonly optimizer: Optimizer;
}

/** Options of {@linkcode saveCheckpoint}. */
export interface SaveCheckpointOptions extends RankStates {
  /** Step that was taken last. */
  readonly step: number;
  /** How the model is trained. */
  readonly train: TrainConfig;
  /** What it is trained on. */
  readonly text?: SavedText;
  /** Where the loss scale stands, if there is one. */
  readonly lossScale?: LossScaleState;
}

/** What a checkpoint holds of each element of a parameter. */
type Kind = "value" | MomentKind;

/**
 * Saves what all ranks hold, as rank 0 sees its file system: an earlier checkpoint in the folder is replaced once all is
 * written. Every rank calls it between steps; when it resolves on any of them, the checkpoint is whole. Nothing is
 * allocated on the device; the host holds one tensor at a time.
 *
 * @throws {CheckpointError} on rank 0 when the folder cannot be written; the earlier checkpoint stays as it is
 */
export async function saveCheckpoint(folder: string, options: SaveCheckpointOptions): Promise<void> {
  const { strategy, model } = options;
  if (strategy.rank > 0) await writeTensors(options);
  else {
    const heads = checkpointHeads(model, options.step);
    await replaceFolder(folder, {
      files: Object.values(CHECKPOINT_FILES),
      write: (partial) => writeFiles(partial, heads, options),
    });
  }
  await strategy.gatherToFirst(new Float32Array(0), "checkpoint");
}

async function writeFiles(folder: string, heads: CheckpointHeads, options: SaveCheckpointOptions): Promise<void> {
  const { model, step, train } = options;
  const create = (name: "weights" | "moments") =>
    SafetensorsWriter.create(`${folder}/${CHECKPOINT_FILES[name]}`, heads[name], { metadata: heads.metadata });
  const config = toHfConfig(model, { maxPositions: train.seqTokens, endToken: END_TOKEN });
  await writeJson(`${folder}/${CHECKPOINT_FILES.config}`, config);
  await writeJson(`${folder}/${CHECKPOINT_FILES.state}`, trainerState(step, train, options));
  using weights = await create("weights");
  using moments = await create("moments");
  await writeTensors(options, async (name, kind, whole) => {
    if (kind === "value") await weights.write(name, whole);
    else await moments.write(momentNames(name)[kind], whole);
  });
  await weights.finish();
  await moments.finish();
}

/** Puts weights and moments together on rank 0, which gives them to `write` one by one. */
async function writeTensors(
  { backend, strategy, model, states, optimizer }: RankStates,
  write?: (name: string, kind: Kind, whole: Float32Array) => Promise<void>,
): Promise<void> {
  const own = ownByName(optimizer);
  const read = (elements: OwnElements, kind: Kind, into: Float32Array) =>
    kind === "value" ? readInPieces(backend, elements.value, into) : optimizer.moments.read(elements, kind, into);
  const memory = new SharedMemory(); // what is sent from it is not copied
  const wholes = new Float32Array(write ? largestSize(model) : 0);
  for (const weight of parameterSpecs(model)) {
    const parts = partsByRank(weight, states, strategy.ranks);
    const whole = wholes.subarray(0, elementCount(weight.shape));
    const gives = parts[strategy.rank] !== undefined;
    for (const kind of ["value", "m", "v"] as const) {
      const values = memory.floats(gives ? own.get(weight.name)!.value.size : 0);
      if (gives) await read(own.get(weight.name)!, kind, values);
      // Also where rank 0 has all of it: a request for each tensor tells the others that writing goes on.
      const received = await strategy.gatherToFirst(values, `checkpoint of ${weight.name}`);
      if (write) {
        for (const [rank, part] of parts.entries()) if (part) putPart(received[rank], whole, part);
        received.forEach(release);
        await write(weight.name, kind, whole);
      }
      memory.give(values);
    }
  }
}

/** What each rank gives of a weight, without what a lower rank has as well. */
function partsByRank(weight: NamedShape, states: ModelStates, ranks: number): (PartRuns | undefined)[] {
  const starts = new Set<number>();
  return Array.from({ length: ranks }, (_, rank) => {
    const part = states.updated(weight, rank);
    if (part.count * part.length === 0 || starts.has(part.start)) return undefined;
    starts.add(part.start);
    return part;
  });
}

/**
 * Reads the moments of the elements that this rank updates, tensor by tensor, from a checkpoint that
 * {@linkcode readCheckpoint} has found whole.
 *
 * @throws {SafetensorsError} when they are missing
 */
export async function readMoments(
  folder: string,
  { strategy, model, states, optimizer }: RankStates,
): Promise<void> {
  const own = ownByName(optimizer);
  using file = await SafetensorsFile.open(`${folder}/${CHECKPOINT_FILES.moments}`);
  for (const weight of parameterSpecs(model)) {
    const elements = own.get(weight.name);
    if (!elements) continue;
    const part = states.updated(weight, strategy.rank);
    for (const kind of ["m", "v"] as const) {
      optimizer.moments.write(elements, kind, await file.readFloats(momentNames(weight.name)[kind], part));
    }
  }
}

function ownByName({ updated }: Optimizer): Map<string, OwnElements> {
  return new Map(updated.map((elements) => [elements.name, elements]));
}

function largestSize(model: ModelConfig): number {
  return Math.max(...parameterSpecs(model).map(({ shape }) => elementCount(shape)));
}

async function writeJson(path: string, value: unknown): Promise<void> {
  using file = await Deno.open(path, { write: true, create: true, truncate: true });
  const bytes = new TextEncoder().encode(`${JSON.stringify(value, undefined, 2)}\n`);
  for (let count = 0; count < bytes.length;) count += await file.write(bytes.subarray(count));
  await file.sync();
}
