import { assert, assertEquals, assertFalse, assertRejects } from "@std/assert";
import { UnsupportedModelError } from "../../packages/core/config/hf_config.ts";
import { parameterSpecs } from "../../packages/core/model/parameters.ts";
import { hasModelWeights, readModelFolder, readModelWeights } from "../../packages/core/train/model_folder.ts";
import { keptOfWeights } from "../../packages/core/sharding/divided_states.ts";
import { segmentRuns, takePart } from "../../packages/core/sharding/weight_part.ts";
import { SafetensorsError, SafetensorsFile } from "../../packages/core/train/safetensors.ts";
import { type HostTensor, writeSafetensors } from "../../packages/core/train/safetensors_writer.ts";
import { elementCount } from "../../packages/core/tensor/shape.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const CONFIG = {
  model_type: "llama",
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  vocab_size: 10,
};

async function writeConfig(folder: string, config: unknown = CONFIG): Promise<void> {
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
}

async function tensorsOf(folder: string): Promise<Map<string, HostTensor>> {
  const specs = parameterSpecs(await readModelFolder(folder));
  return new Map(specs.map(({ name, shape }, i) => {
    return [name, { shape, data: new Float32Array(elementCount(shape)).fill(i + 1) }];
  }));
}

Deno.test("weights are read from one file", () =>
  withTempDir(async (folder) => {
    await writeConfig(folder);
    assertFalse(await hasModelWeights(folder));
    const tensors = await tensorsOf(folder);
    await writeSafetensors(`${folder}/model.safetensors`, tensors);
    assert(await hasModelWeights(folder));
    const weights = await readModelWeights(folder, await readModelFolder(folder));
    assertEquals([...weights.keys()].sort(), [...tensors.keys()].sort());
    for (const [name, { data }] of tensors) assertEquals(weights.get(name), data);
  }));

Deno.test("weights are read from shards", () =>
  withTempDir(async (folder) => {
    await writeConfig(folder);
    const tensors = await tensorsOf(folder);
    const names = [...tensors.keys()];
    const weightMap: Record<string, string> = {};
    for (const [i, half] of [names.slice(0, 3), names.slice(3)].entries()) {
      const file = `model-0000${i + 1}-of-00002.safetensors`;
      for (const name of half) weightMap[name] = file;
      await writeSafetensors(`${folder}/${file}`, new Map(half.map((name) => [name, tensors.get(name)!])));
    }
    const index = `${folder}/model.safetensors.index.json`;
    await Deno.writeTextFile(index, JSON.stringify({ metadata: {}, weight_map: weightMap }));
    assert(await hasModelWeights(folder));
    const model = await readModelFolder(folder);
    const weights = await readModelWeights(folder, model);
    for (const [name, { data }] of tensors) assertEquals(weights.get(name), data);
    await Deno.writeTextFile(index, JSON.stringify({ weight_map: { a: "../model.safetensors" } }));
    await assertRejects(() => readModelWeights(folder, model), TypeError, "must be a .safetensors file beside it");
    await Deno.writeTextFile(index, "{}");
    await assertRejects(() => readModelWeights(folder, model), TypeError, "no weight_map");
  }));

Deno.test("a rank reads its segment of each weight, of floats of any length", () =>
  withTempDir(async (folder) => {
    await writeConfig(folder);
    const model = await readModelFolder(folder);
    const specs = parameterSpecs(model);
    const values = (size: number) => Float32Array.from({ length: size }, (_, i) => i % 200); // exact in 16 bits
    const tensors = new Map(specs.map(({ name, shape }) => [name, { shape, data: values(elementCount(shape)) }]));
    await writeSafetensors(`${folder}/model.safetensors`, tensors);
    await writeHalves(`${folder}/halves.safetensors`, values(33));
    using halves = await SafetensorsFile.open(`${folder}/halves.safetensors`);
    for (const ranks of [1, 2, 3, 100]) {
      const parts = [];
      for (let rank = 0; rank < ranks; rank++) {
        const kept = keptOfWeights(model, { rank, ranks }, "weights");
        const seven = { name: "seven", shape: [7] };
        const { start: first, length: all } = keptOfWeights(model, { rank, ranks }, "gradients")(seven);
        assertEquals([first, all], [0, 7]);
        parts.push(await readModelWeights(folder, model, kept));
        const runs = kept({ name: "halves", shape: [33] });
        assertEquals(await halves.readFloats("halves", runs), takePart(values(33), runs));
      }
      for (const [name, { data }] of tensors) {
        assertEquals(parts.flatMap((part) => [...part.get(name)!]), [...data], `${name} by ${ranks} ranks`);
      }
    }
    await assertRejects(
      () => halves.readFloats("halves", segmentRuns(33, { start: 3, end: 34 })),
      RangeError,
      "Cannot read elements 3 to 34 of halves: it has 33",
    );
  }));

async function writeHalves(path: string, values: Float32Array): Promise<void> {
  const data = new Uint8Array(new Float16Array(values).buffer);
  const header = { halves: { dtype: "F16", shape: [values.length], data_offsets: [0, data.length] } };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = new Uint8Array(new BigUint64Array([BigInt(text.length)]).buffer);
  await Deno.writeFile(path, Uint8Array.from([...length, ...text, ...data]));
}

Deno.test("missing, unknown and misshapen weights are refused", () =>
  withTempDir(async (folder) => {
    await writeConfig(folder);
    const model = await readModelFolder(folder);
    const path = `${folder}/model.safetensors`;
    const tensors = await tensorsOf(folder);
    const norm = tensors.get("model.norm.weight")!;
    tensors.delete("model.norm.weight");
    await writeSafetensors(path, tensors);
    await assertRejects(() => readModelWeights(folder, model), SafetensorsError, "model.norm.weight is missing");
    await writeSafetensors(path, tensors.set("model.norm.weight", { shape: [2, 4], data: norm.data }));
    await assertRejects(() => readModelWeights(folder, model), SafetensorsError, "has shape [2,4], wanted [8]");
    tensors.set("model.norm.weight", norm).set("model.layers.0.self_attn.q_proj.bias", norm);
    await writeSafetensors(path, tensors);
    await assertRejects(() => readModelWeights(folder, model), SafetensorsError, "no weight model.layers.0.self_attn");
  }));

Deno.test("tied embeddings need no LM head and ignore one", () =>
  withTempDir(async (folder) => {
    await writeConfig(folder, { ...CONFIG, tie_word_embeddings: true });
    const model = await readModelFolder(folder);
    const tensors = await tensorsOf(folder);
    assertFalse(tensors.has("lm_head.weight"));
    await writeSafetensors(
      `${folder}/model.safetensors`,
      tensors.set("lm_head.weight", tensors.get("model.embed_tokens.weight")!),
    );
    assertFalse((await readModelWeights(folder, model)).has("lm_head.weight"));
  }));

Deno.test("a folder without a readable configuration is refused", () =>
  withTempDir(async (folder) => {
    await assertRejects(() => readModelFolder(folder), TypeError, "config.json");
    await Deno.writeTextFile(`${folder}/config.json`, "{");
    await assertRejects(() => readModelFolder(folder), TypeError, "not JSON");
    await writeConfig(folder, { ...CONFIG, model_type: "gemma2" });
    await assertRejects(() => readModelFolder(folder), UnsupportedModelError, 'model_type "gemma2"');
  }));
