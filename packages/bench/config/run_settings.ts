/**
 * What the commands of several hosts have to agree on, as text by name.
 *
 * @module
 */

import { createHash, type Hash } from "node:crypto";
import type { TokenizedText } from "@mst/core";
import type { RunConfig } from "./run_config.ts";

/** Parts of a weight file that go into its fingerprint, and the bytes of each. */
const SAMPLES = 64;
const SAMPLE_BYTES = 64 * 1024;

/**
 * The settings of a run. Files stand for what they hold, as their paths differ between hosts: the training text by the
 * hash of all its tokens, weights by their sizes and a hash of samples, since they can be larger than memory.
 */
export async function runSettings(run: RunConfig, text: TokenizedText): Promise<Record<string, string>> {
  const { modelName: _name, weightsFolder, dataFile: _file, resume, save, ...compared } = run;
  const { tokens } = text;
  const textHash = createHash("sha256").update(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength));
  return {
    ...flatten(compared),
    "steps before": String(resume?.step ?? 0),
    "checkpoints": save ? `${save.everySteps ?? "at the end"}` : "none",
    "training text": shortDigest(textHash),
    weights: weightsFolder === undefined ? "by seed" : await fingerprint(weightsFolder),
  };
}

/** `{ train: { seed: 0 } }` as `{ "train.seed": "0" }`. */
function flatten(value: object, prefix = ""): Record<string, string> {
  const settings: Record<string, string> = {};
  for (const [name, part] of Object.entries(value)) {
    if (part === undefined) continue;
    if (typeof part === "object" && part !== null && !Array.isArray(part)) {
      Object.assign(settings, flatten(part, `${prefix}${name}.`));
    } else settings[prefix + name] = typeof part === "string" ? part : JSON.stringify(part);
  }
  return settings;
}

/** Stands for the weights in a folder. */
async function fingerprint(folder: string): Promise<string> {
  const names = [];
  for await (const { name } of Deno.readDir(folder)) if (name.endsWith(".safetensors")) names.push(name);
  const hash = createHash("sha256");
  for (const name of names.sort()) await addSamples(hash, `${folder}/${name}`);
  return shortDigest(hash);
}

async function addSamples(hash: Hash, path: string): Promise<void> {
  using file = await Deno.open(path);
  const { size } = await file.stat();
  hash.update(`${size}`);
  const sample = new Uint8Array(SAMPLE_BYTES);
  const strideBytes = Math.max(SAMPLE_BYTES, Math.floor(size / SAMPLES));
  for (let offset = 0; offset < size; offset += strideBytes) {
    await file.seek(offset, Deno.SeekMode.Start);
    const bytes = await file.read(sample);
    if (bytes !== null) hash.update(sample.subarray(0, bytes));
  }
}

function shortDigest(hash: Hash): string {
  return hash.digest("hex").slice(0, 16);
}
