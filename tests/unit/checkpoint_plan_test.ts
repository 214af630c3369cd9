import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import {
  createReferenceBackend,
  createSingleStrategy,
  type ModelConfig,
  parseTrainConfig,
  readText,
  type SavedText,
  Trainer,
} from "@mst/core";
import { BENCH_FLAGS } from "../../packages/bench/cli/flags.ts";
import { parseFlags } from "../../packages/bench/cli/parse_flags.ts";
import { UsageError } from "../../packages/bench/cli/usage_error.ts";
import { checkBenchFlags, readBenchInputs, resolveBenchPlan } from "../../packages/bench/config/bench_plan.ts";
import type { RunConfig } from "../../packages/bench/config/run_config.ts";
import { runSettings } from "../../packages/bench/config/run_settings.ts";
import { withTempDir } from "../_support/temp_dir.ts";
import { tinyModel } from "../_support/tiny_model.ts";

const MODEL = tinyModel({ vocab: 257, tiedEmbeddings: true });
const SETTINGS = { seqTokens: 20, batch: 2, seed: 3, steps: 8, learningRate: 0.02, warmupSteps: 1, beta2: 0.9 };

async function resolve(args: readonly string[]) {
  const { flags } = parseFlags(args, BENCH_FLAGS);
  const inputs = await readBenchInputs(flags);
  checkBenchFlags(flags, inputs);
  return { run: resolveBenchPlan(flags, inputs, { gpus: [] }).run, inputs };
}

async function plan(args: readonly string[]): Promise<RunConfig> {
  return (await resolve(args)).run;
}

/** A checkpoint of no steps or some, without training. */
async function saveCheckpoint(
  folder: string,
  { step = 5, text, model = MODEL, ...values }: {
    step?: number;
    text?: SavedText;
    model?: ModelConfig;
    packed?: boolean;
  },
): Promise<void> {
  await using backend = createReferenceBackend();
  const train = parseTrainConfig({ ...SETTINGS, ...values });
  using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train });
  await trainer.save(folder);
  await trainer.resume(folder, step);
  await trainer.save(folder, text);
}

Deno.test("a run that goes on has the settings of its checkpoint; how it is run is free", () =>
  withTempDir(async (temp) => {
    await saveCheckpoint(`${temp}/c`, {});
    const free = "--strategy=ulysses --ranks=2 --shard=weights --recompute=none --mini-sequence=4".split(" ");
    const run = await plan([`--resume=${temp}/c`, ...free, `--save=${temp}/c`, "--save-every=2"]);
    const { tokens } = await readText();
    const expected = { shard: "weights", recompute: "none", mlpChunks: 4, headChunks: 4 };
    assertEquals(run.train, parseTrainConfig({ ...SETTINGS, ...expected }));
    assertEquals([run.model, run.weightsFolder, run.modelName], [MODEL, `${temp}/c`, `${temp}/c`]);
    assertEquals(run.resume, { folder: `${temp}/c`, step: 5 });
    assertEquals([run.save?.folder, run.save?.everySteps, run.save?.text.tokens], [`${temp}/c`, 2, tokens.length]);
    assertEquals(run.warmup, 1);
    assertEquals((await plan([`--resume=${temp}/c`, "--steps=6", "--seed=3", "--seq=20", "--dim=16"])).train.steps, 6);
  }));

Deno.test("flags that contradict a checkpoint are refused with both values", () =>
  withTempDir(async (temp) => {
    const resume = `--resume=${temp}/c`;
    const refused = async (args: string[], message: string) => {
      const error = await assertRejects(() => plan([resume, ...args]), UsageError);
      assertStringIncludes(error.message, message);
    };
    await saveCheckpoint(`${temp}/c`, {});
    for (
      const [flag, saved] of [
        ["--seed=4", 3],
        ["--seq=21", 20],
        ["--batch=1", 2],
        ["--accumulate=2", 1],
        ["--lr=0.001", 0.02],
        ["--lr-warmup=0", 1],
        ["--schedule=constant", "cosine"],
        ["--clip=2", 1],
        ["--dim=32", 16],
        ["--layers=1", 2],
        ["--heads=2", 4],
        ["--kv-heads=4", 2],
        ["--ffn=8", 24],
        ["--vocab=300", 257],
      ]
    ) {
      const why = `Cannot use ${flag} with ${resume}: it was saved with ${saved}; to change it, --model=${temp}/c`;
      await refused([`${flag}`], why);
    }
    await refused(["--model=tiny"], "Cannot use --model=tiny with ");
    await refused(["--pack"], "Cannot use --pack with ");
    await refused(["--steps=5"], `Cannot use ${resume} with --steps=5: it was saved after step 5, wanted more steps`);
    await refused(["--steps=7", "--warmup=2"], "Cannot leave out --warmup=2 of 2 steps after --resume");
    await refused(["--strategy=ulysses", "--ranks=3"], "Cannot split 4 heads across 3 ranks");
    await saveCheckpoint(`${temp}/c`, { step: 8 });
    await refused(
      [],
      `Cannot use ${resume} without --steps: it was saved after step 8 of 8, wanted the number of a later`,
    );
  }));

Deno.test("a run goes on with the text of its checkpoint, wherever that is now", () =>
  withTempDir(async (temp) => {
    const [file, moved, resume] = [`${temp}/a.txt`, `${temp}/b.txt`, `--resume=${temp}/c`];
    const written = "call me Ishmael;".repeat(20);
    await Deno.writeTextFile(file, written);
    const save = [`--save=${temp}/other`, "--separator=;", "--pack", "--seq=20"];
    const { text } = (await plan([`--data=${file}`, ...save])).save!;
    assertEquals([text.file, text.separator, text.tokens], [await Deno.realPath(file), ";", 320]);
    await saveCheckpoint(`${temp}/c`, { text, packed: true });
    const found = await plan([resume]);
    assertEquals([found.dataFile, found.separator, found.train.packed], [text.file, ";", true]);

    await Deno.rename(file, moved);
    await assertRejects(() => plan([resume]), UsageError, "Cannot read the training text");
    assertEquals((await plan([resume, `--data=${moved}`])).dataFile, moved);
    const otherSeparator = [resume, `--data=${moved}`, "--separator=me"];
    await assertRejects(() => plan(otherSeparator), UsageError, "wanted 320 tokens with SHA-256 ");
    await Deno.writeTextFile(moved, written.replace("call", "Call"));
    const { message } = await assertRejects(() => plan([resume, `--data=${moved}`]), UsageError);
    assertStringIncludes(message, `Cannot use --data=${moved} with ${resume}: it has 320 tokens with SHA-256 `);
    assertStringIncludes(message, " as documents");
  }));

Deno.test("hosts agree on the step and on saving, not on folders", () =>
  withTempDir(async (temp) => {
    const settingsOf = async (args: string[]) => {
      const { run, inputs } = await resolve(args);
      return await runSettings(run, inputs.text);
    };
    for (const folder of ["a", "b"]) await saveCheckpoint(`${temp}/${folder}`, {});
    const flags = (folder: string) => [`--resume=${temp}/${folder}`, `--save=${temp}/${folder}`];
    const settings = await settingsOf(flags("a"));
    assertEquals(settings, await settingsOf(flags("b")));
    assertEquals([settings["steps before"], settings.checkpoints], ["5", "at the end"]);
    assertEquals((await settingsOf([...flags("b"), "--save-every=2"])).checkpoints, "2");
    assertEquals((await settingsOf([])).checkpoints, "none");
  }));
