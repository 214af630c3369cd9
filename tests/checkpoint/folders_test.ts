import { assert, assertEquals, assertNotEquals, assertRejects, assertStringIncludes } from "@std/assert";
import {
  CheckpointError,
  checkSavable,
  parseHfConfig,
  readCheckpoint,
  readModelFolder,
  readModelWeights,
  SafetensorsFile,
  toHfConfig,
  writeSafetensors,
} from "@mst/core";
import { withTempDir } from "../_support/temp_dir.ts";
import { tinyModel } from "../_support/tiny_model.ts";
import { MODEL, train, type Way, WAYS } from "./_training.ts";

const golden = (name: string) => new URL(`../golden/${name}`, import.meta.url).pathname;

for (const name of ["llama2", "llama3", "llama31"]) {
  Deno.test(`${name} of transformers comes back bit by bit`, () =>
    withTempDir(async (temp) => {
      const model = await readModelFolder(golden(name));
      const weights = await readModelWeights(golden(name), model);
      for (const way of [WAYS.single, WAYS.megatron, WAYS["shard weights"]] satisfies Way[]) {
        await train(way, { model, weights, until: 0, save: `${temp}/c` });
        assertEquals(await readModelFolder(`${temp}/c`), model);
        assertEquals(await readModelWeights(`${temp}/c`, model), weights);
        assertEquals((await readCheckpoint(`${temp}/c`)).state.step, 0);
      }
    }));
}

Deno.test("tied embeddings are saved once", () =>
  withTempDir(async (temp) => {
    const model = tinyModel({ tiedEmbeddings: true });
    await train(WAYS["shard optimizer"], { model, until: 2, save: `${temp}/c` });
    using file = await SafetensorsFile.open(`${temp}/c/model.safetensors`);
    assert(!file.entries.has("lm_head.weight"));
    assertEquals((await readCheckpoint(`${temp}/c`)).model, model);
    const options = { model, resume: { folder: `${temp}/c`, step: 2 }, until: 4 };
    const straight = await train(WAYS["shard optimizer"], { model, until: 4 });
    assertEquals((await train(WAYS["shard optimizer"], options)).reports, straight.reports.slice(2));
  }));

Deno.test("a configuration is the inverse of reading it", () => {
  const scaling = { factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalPositions: 64 };
  const models = [
    MODEL,
    tinyModel({ tiedEmbeddings: true, headDim: 6, normEpsilon: 1e-6, ropeTheta: 5e5 }),
    tinyModel({ ropeScaling: { type: "llama3", ...scaling } }),
  ];
  for (const model of models) {
    const config = JSON.parse(JSON.stringify(toHfConfig(model, { maxPositions: 100, endToken: 7 })));
    assertEquals(parseHfConfig(config), model);
    assertEquals(config.max_position_embeddings, model.ropeScaling ? 512 : 100);
    assertEquals([config.eos_token_id, config.torch_dtype], [7, "float32"]);
  }
});

/** Ways to spoil a checkpoint, and what is then said of it. */
const SPOILED: readonly [what: string, spoil: (folder: string) => Promise<void>, message: string][] = [
  ["no moments", (folder) => Deno.remove(`${folder}/optimizer.safetensors`), "optimizer.safetensors"],
  ["no state", (folder) => Deno.remove(`${folder}/trainer_state.json`), "it has no readable trainer_state.json"],
  ["no configuration", (folder) => Deno.remove(`${folder}/config.json`), "config.json"],
  ["torn weights", (folder) => tear(`${folder}/model.safetensors`), "follow the header"],
  ["torn moments", (folder) => tear(`${folder}/optimizer.safetensors`), "follow the header"],
  ["another model", async (folder) => {
    await edit(folder, "config.json", /"intermediate_size": 26/, '"intermediate_size": 28');
  }, "mlp.gate_proj.weight of F32 [26,16], wanted F32 [28,16]"],
  ["fewer layers in the configuration", async (folder) => {
    await edit(folder, "config.json", /"num_hidden_layers": 2/, '"num_hidden_layers": 1');
  }, "which the model of config.json lacks"],
  ["more layers in the configuration", async (folder) => {
    await edit(folder, "config.json", /"num_hidden_layers": 2/, '"num_hidden_layers": 3');
  }, "has no model.layers.2.input_layernorm.weight"],
  ["another step", async (folder) => {
    await edit(folder, "trainer_state.json", /"step": 1/, '"step": 2');
  }, "is of step 1, wanted 2 by trainer_state.json"],
  ["a state that is cut off", async (folder) => {
    await Deno.truncate(`${folder}/trainer_state.json`, 20);
  }, "its trainer_state.json is not one that this version writes"],
  ["a state of something else", async (folder) => {
    await Deno.writeTextFile(`${folder}/trainer_state.json`, '{"global_step": 3}');
  }, "its trainer_state.json is not one that this version writes"],
  ["a setting that is missing", async (folder) => {
    await edit(folder, "trainer_state.json", /"beta2": [\d.]+,/, "");
  }, "train: beta2"],
  ["moments of one tensor missing", async (folder) => {
    const path = `${folder}/optimizer.safetensors`;
    const tensors = new Map();
    {
      using file = await SafetensorsFile.open(path);
      for (const [name, { shape }] of file.entries) tensors.set(name, { shape, data: await file.readFloats(name) });
    }
    tensors.delete("exp_avg_sq.model.norm.weight");
    await writeSafetensors(path, tensors, { metadata: { format: "pt", step: "1" } });
  }, "has no exp_avg_sq.model.norm.weight"],
];

async function tear(path: string): Promise<void> {
  const { size } = await Deno.stat(path);
  await Deno.truncate(path, size - 100);
}

async function edit(folder: string, file: string, pattern: RegExp, text: string): Promise<void> {
  const before = await Deno.readTextFile(`${folder}/${file}`);
  const after = before.replace(pattern, text);
  assertNotEquals(after, before);
  await Deno.writeTextFile(`${folder}/${file}`, after);
}

Deno.test("spoiled checkpoints are refused by what is wrong with them", () =>
  withTempDir(async (temp) => {
    for (const [what, spoil, message] of SPOILED) {
      const folder = `${temp}/c`;
      await train(WAYS.single, { until: 1, save: folder });
      await readCheckpoint(folder);
      await spoil(folder);
      const error = await assertRejects(() => readCheckpoint(folder), CheckpointError, undefined, what);
      assertStringIncludes(error.message, `Cannot go on from ${folder}: `);
      assertStringIncludes(error.message, message);
    }
    await assertRejects(() => readCheckpoint(golden("llama3")), CheckpointError, "no readable trainer_state.json");
    await assertRejects(() => readCheckpoint(`${temp}/none`), CheckpointError, "no readable trainer_state.json");
    await assertRejects(() => checkSavable(golden("llama3"), MODEL), CheckpointError, "is no checkpoint");
  }));
