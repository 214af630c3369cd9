/**
 * Folders of the golden format: a model as transformers saves it, and in golden.safetensors what transformers computed
 * with it.
 *
 * `input_ids` [S], `logits` [S, V], `loss` [1] over the S − 1 positions that have a next token, `grad.<parameter>` of it,
 * and `losses` [N] of N steps of AdamW on that one sequence.
 *
 * @module
 */

import { type ModelConfig, parameterSpecs, readModelFolder, SafetensorsError, SafetensorsFile } from "@mst/core";

/** AdamW's settings behind the golden `losses`: constant rate, decay on every parameter, no clipping. */
export const GOLDEN_ADAMW = {
  learningRate: 1e-3,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weightDecay: 0.1,
  clipNorm: 0,
  schedule: "constant",
} as const;

/** What transformers computed. */
export interface GoldenCase {
  /** Folder it was read from. */
  readonly folder: string;
  /** Shape of the model. */
  readonly model: ModelConfig;
  /** Token ids [S]. */
  readonly inputIds: Uint32Array;
  /** Logits [S, V]. */
  readonly logits: Float32Array;
  /** Mean next-token cross-entropy. */
  readonly loss: number;
  /** Gradients of the loss by parameter name. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
  /** Losses of the steps of AdamW. */
  readonly losses: Float32Array;
}

/**
 * Reads a folder whole.
 *
 * @throws {UnsupportedModelError} when its model needs something that is not implemented
 * @throws {SafetensorsError} when golden.safetensors is malformed, or a tensor is missing or of another size
 * @throws {TypeError} when a file cannot be read
 * @throws {RangeError} when the dims of the model do not fit together
 */
export async function readGoldenCase(folder: string): Promise<GoldenCase> {
  const model = await readModelFolder(folder);
  using file = await openGolden(folder);
  const inputIds = await file.readIntegers("input_ids");
  const read = async (name: string, size: number) => {
    const data = await file.readFloats(name);
    if (data.length === size) return data;
    throw new SafetensorsError(file.path, `${name} has ${data.length} elements, wanted ${size}`);
  };
  if (inputIds.length < 2) throw new SafetensorsError(file.path, "input_ids must hold two tokens or more");
  const outside = inputIds.find((id) => id >= model.vocab);
  if (outside !== undefined) {
    throw new SafetensorsError(file.path, `input_ids holds ${outside}, outside the vocabulary of ${model.vocab}`);
  }
  const gradients = new Map<string, Float32Array>();
  for (const { name, shape } of parameterSpecs(model)) {
    gradients.set(name, await read(`grad.${name}`, shape.reduce((product, dim) => product * dim, 1)));
  }
  const losses = await file.readFloats("losses");
  if (losses.length === 0) throw new SafetensorsError(file.path, "losses must hold a step or more");
  const logits = await read("logits", inputIds.length * model.vocab);
  const [loss] = await read("loss", 1);
  return { folder, model, inputIds, logits, loss, gradients, losses };
}

/** The token ids of a folder, for a rank. */
export async function readGoldenSequence(folder: string): Promise<Uint32Array> {
  using file = await openGolden(folder);
  return await file.readIntegers("input_ids");
}

async function openGolden(folder: string): Promise<SafetensorsFile> {
  const path = `${folder}/golden.safetensors`;
  try {
    return await SafetensorsFile.open(path);
  } catch (cause) {
    if (cause instanceof SafetensorsError) throw cause;
    throw new TypeError(`Cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
}
