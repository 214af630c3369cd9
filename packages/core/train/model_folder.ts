/**
 * Model folders as Hugging Face transformers saves them: config.json, and weights in model.safetensors or in shards that
 * model.safetensors.index.json lists.
 *
 * @module
 */

import { parseHfConfig } from "../config/hf_config.ts";
import type { ModelConfig } from "../config/model_config.ts";
import { parameterSpecs } from "../model/parameters.ts";
import type { PartRuns } from "../sharding/weight_part.ts";
import type { NamedShape } from "../strategy/tensor_parallel.ts";
import { sameShape } from "../tensor/shape.ts";
import { SafetensorsError, SafetensorsFile } from "./safetensors.ts";

const CONFIG_FILE = "config.json";
const WEIGHTS_FILE = "model.safetensors";
const INDEX_FILE = "model.safetensors.index.json";

/** Weights that old checkpoints carry and the model computes itself. */
const COMPUTED_WEIGHT = /\.rotary_emb\.inv_freq$/;

/**
 * Shape of the model in a folder.
 *
 * @throws {TypeError} when config.json is missing or is not a model's configuration
 * @throws {UnsupportedModelError} when the model needs something that is not implemented
 * @throws {RangeError} when its dims do not fit together
 */
export async function readModelFolder(folder: string): Promise<ModelConfig> {
  return parseHfConfig(await readJson(`${folder}/${CONFIG_FILE}`));
}

/** Whether a folder holds weights next to its configuration. */
export async function hasModelWeights(folder: string): Promise<boolean> {
  return await isFile(`${folder}/${WEIGHTS_FILE}`) || await isFile(`${folder}/${INDEX_FILE}`);
}

/**
 * Every weight of a model by its name, as f32.
 *
 * @param kept elements to read of a weight; all when left out
 * @throws {SafetensorsError} when a file is malformed, or a weight is missing, unknown or of another shape
 * @throws {TypeError} when the list of shards is missing or malformed
 */
export async function readModelWeights(
  folder: string,
  model: ModelConfig,
  kept?: (weight: NamedShape) => PartRuns,
): Promise<Map<string, Float32Array>> {
  const weights = new Map<string, Float32Array>();
  const wanted = new Map(parameterSpecs(model).map(({ name, shape }) => [name, shape]));
  for (const path of await weightFiles(folder)) {
    using file = await SafetensorsFile.open(path);
    for (const [name, { shape }] of file.entries) {
      if (COMPUTED_WEIGHT.test(name) || (model.tiedEmbeddings && name === "lm_head.weight")) continue;
      const wantedShape = wanted.get(name);
      if (!wantedShape) throw new SafetensorsError(path, `the model of config.json has no weight ${name}`);
      if (!sameShape(shape, wantedShape)) {
        throw new SafetensorsError(path, `${name} has shape [${shape}], wanted [${wantedShape}] by config.json`);
      }
      if (weights.has(name)) throw new SafetensorsError(path, `an earlier file has weight ${name}, too`);
      weights.set(name, await file.readFloats(name, kept?.({ name, shape })));
    }
  }
  for (const name of wanted.keys()) {
    if (!weights.has(name)) throw new SafetensorsError(folder, `weight ${name} is missing`);
  }
  return weights;
}

async function weightFiles(folder: string): Promise<string[]> {
  if (await isFile(`${folder}/${WEIGHTS_FILE}`)) return [`${folder}/${WEIGHTS_FILE}`];
  const index = await readJson(`${folder}/${INDEX_FILE}`);
  const shards = Object.values((index as { weight_map?: Record<string, unknown> } | null)?.weight_map ?? {});
  if (shards.length === 0) throw new TypeError(`Cannot read ${folder}/${INDEX_FILE}: it has no weight_map`);
  return [...new Set(shards)].sort().map((shard) => {
    if (typeof shard === "string" && /^[\w.-]+\.safetensors$/.test(shard)) return `${folder}/${shard}`;
    throw new TypeError(
      `Cannot read shard ${JSON.stringify(shard)} of ${folder}/${INDEX_FILE}: it must be a .safetensors file beside it`,
    );
  });
}

async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (cause) {
    throw new TypeError(`Cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new TypeError(`Cannot read ${path}: it is not JSON (${(cause as Error).message})`, { cause });
  }
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await Deno.stat(path)).isFile;
  } catch {
    return false;
  }
}
