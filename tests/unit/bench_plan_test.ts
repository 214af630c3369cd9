import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { MODEL_PRESETS } from "@mst/core";
import { BENCH_FLAGS } from "../../packages/bench/cli/flags.ts";
import { parseFlags } from "../../packages/bench/cli/parse_flags.ts";
import { UsageError } from "../../packages/bench/cli/usage_error.ts";
import { checkBenchFlags, readBenchInputs, resolveBenchPlan } from "../../packages/bench/config/bench_plan.ts";
import { DEFAULT_SIZES } from "../../packages/bench/config/defaults.ts";
import type { BenchPlan } from "../../packages/bench/config/run_config.ts";
import type { Hardware } from "../../packages/bench/hardware/probe.ts";
import { STRATEGY_NAMES, strategyEntry } from "../../packages/bench/scenario.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const NO_GPU: Hardware = { gpus: [], problem: "no GPU driver" };
const SOFTWARE: Hardware = { gpus: [], adapter: { deviceName: "llvmpipe", isSoftware: true } };
const TWO_GPUS: Hardware = {
  gpus: ["0000:1b:00.0", "0000:1c:00.0"],
  adapter: { deviceName: "GPU", isSoftware: false },
};
const LLAMA3 = new URL("../golden/llama3", import.meta.url).pathname;

async function plan(args: string[], hardware: Hardware = SOFTWARE): Promise<BenchPlan> {
  const { flags } = parseFlags(args, BENCH_FLAGS);
  const inputs = await readBenchInputs(flags);
  checkBenchFlags(flags, inputs);
  return resolveBenchPlan(flags, inputs, hardware);
}

async function assertRefused(args: string[], message: string, hardware?: Hardware): Promise<void> {
  await assertRejects(() => plan(args, hardware), UsageError, message);
}

Deno.test("defaults are sized for what computes", async () => {
  for (
    const [hardware, device, sizes, ranks] of [
      [NO_GPU, "reference", DEFAULT_SIZES.reference, 2],
      [SOFTWARE, "webgpu", DEFAULT_SIZES.software, 2],
      [TWO_GPUS, "webgpu", DEFAULT_SIZES.gpu, 2],
      [{ ...TWO_GPUS, gpus: ["a", "b", "c"] }, "webgpu", DEFAULT_SIZES.gpu, 3],
    ] as const
  ) {
    const { run, mode } = await plan([], hardware);
    assertEquals([mode, run.strategy, run.placement, run.device], ["train", "ring", "zigzag", device]);
    assertEquals([run.modelName, run.train.seqTokens, run.train.steps], [sizes.model, sizes.seqTokens, sizes.steps]);
    assertEquals(run.model, MODEL_PRESETS[sizes.model]);
    assertEquals(run.ranks, ranks);
    assertEquals([run.train.mlpChunks, run.train.headChunks, run.train.recompute], ["auto", "auto", "layer"]);
    assertEquals(run.train.shard, "none");
  }
});

Deno.test("the axes of a hybrid follow from what is given, the heads, and the GPUs", async () => {
  const eight: Hardware = { ...TWO_GPUS, gpus: Array.from({ length: 8 }, (_, i) => `gpu ${i}`) };
  const cases: [flags: string, ranks: number, ulysses: number, ring: number, hardware?: Hardware][] = [
    ["--ulysses=2 --ring=3", 6, 2, 3],
    ["--ulysses=2 --ranks=8", 8, 2, 4],
    ["--ring=2 --ranks=8 --ulysses=4", 8, 4, 2],
    ["--ring=3 --ranks=6", 6, 2, 3],
    ["--ulysses=2", 2, 2, 1],
    ["--ring=3", 3, 1, 3],
    ["--ulysses=2", 8, 2, 4, eight],
    ["--ring=3", 6, 2, 3, eight],
    ["--ranks=4", 4, 2, 2],
    ["--ranks=8", 8, 4, 2],
    ["--ranks=16 --ulysses=4", 16, 4, 4],
    ["--ranks=16", 16, 4, 4],
    ["--ranks=12 --heads=6 --kv-heads=3 --dim=96", 12, 6, 2],
    ["--ranks=12 --heads=12 --kv-heads=4 --dim=96", 12, 4, 3],
    ["--ranks=9", 9, 1, 9],
    ["--ranks=2", 2, 1, 2],
    ["--ranks=1", 1, 1, 1],
    ["", 8, 4, 2, eight],
  ];
  for (const [flags, ranks, ulysses, ring, hardware] of cases) {
    const args = ["--strategy=usp", "--model=tiny", "--seq=64", ...flags.split(" ").filter(Boolean)];
    const { run } = await plan(args, hardware);
    assertEquals([run.ranks, run.mesh], [ranks, { ulysses, ring }], flags);
  }
  assertEquals((await plan([])).run.mesh, undefined);
});

Deno.test("given values win over defaults", async () => {
  const { run, mode, jsonFile } = await plan([
    ..."--strategy=single --device=reference --model=125m --seq=70 --batch=2 --accumulate=3 --steps=4".split(" "),
    ..."--warmup=2 --mini-sequence=7 --head-chunks=off --recompute=selective --shard=optimizer --lr=0.5 --lr-warmup=1"
      .split(" "),
    ..."--schedule=constant --clip=0 --seed=9 --timeout=5 --profile --verify --json=/tmp/mst-plan.json".split(" "),
  ], TWO_GPUS);
  assertEquals([run.strategy, run.ranks, run.device, run.modelName], ["single", 1, "reference", "125m"]);
  assertEquals([run.warmup, run.timeoutSeconds, run.profile], [2, 5, true]);
  assertEquals([mode, jsonFile], ["verify", "/tmp/mst-plan.json"]);
  assertEquals(run.train, {
    seqTokens: 70,
    batch: 2,
    packed: false,
    accumulate: 3,
    steps: 4,
    seed: 9,
    mlpChunks: 7,
    headChunks: 1,
    recompute: "selective",
    shard: "optimizer",
    offload: [],
    deviceCheckpoints: 1,
    precision: "f32",
    optimizerStates: "auto",
    learningRate: 0.5,
    warmupSteps: 1,
    schedule: "constant",
    minLearningRate: 0,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weightDecay: 0.1,
    clipNorm: 0,
    optimizerInBackward: false,
  });
});

Deno.test("single values override a model's shape", async () => {
  const { run } = await plan("--model=tiny --dim=64 --heads=8 --layers=1 --ffn=100 --vocab=300".split(" "));
  assertEquals(run.model, {
    ...MODEL_PRESETS.tiny,
    dim: 64,
    heads: 8,
    headDim: 8,
    kvHeads: 2,
    layers: 1,
    ffn: 100,
    vocab: 300,
  });
  assertEquals((await plan(["--heads=1"])).run.model.kvHeads, 1);
  assertEquals((await plan(["--kv-heads=1"])).run.model.kvHeads, 1);
});

Deno.test("a folder gives shape and weights, and overrides leave only its shape", async () => {
  const { run } = await plan([`--model=${LLAMA3}`, "--seq=20"]);
  assertEquals([run.model.dim, run.model.ropeTheta, run.weightsFolder], [64, 500000, LLAMA3]);
  const { run: reshaped } = await plan([`--model=${LLAMA3}`, "--seq=20", "--layers=1"]);
  assertEquals([reshaped.model.layers, reshaped.model.dim, reshaped.weightsFolder], [1, 64, undefined]);
});

Deno.test("--compare-strategies plans one rank and every parallel strategy, at two lengths", async () => {
  const args = "--compare-strategies --model=tiny --seq=100 --ranks=3 --placement=contiguous --memory-budget=1MiB " +
    "--shard=weights";
  const { run, mode, runs } = await plan(args.split(" "));
  assertEquals([mode, run.strategy, run.ranks, run.memoryBudgetBytes, run.train.steps], [
    "compare-strategies",
    "single",
    1,
    undefined,
    4,
  ]);
  const parallel = STRATEGY_NAMES.filter((name) => strategyEntry(name).isParallel);
  assertEquals(
    runs.map(({ config }) => [config.strategy, config.ranks, config.train.seqTokens, config.memoryBudgetBytes]),
    [100, 200].flatMap((seqTokens) => [
      ["single", 1, seqTokens, undefined],
      ...parallel.map((name) => [name, 3, seqTokens, 2 ** 20]),
    ]),
  );
  const find = (strategy: string) => runs.find(({ config }) => config.strategy === strategy)!;
  assertEquals([find("ring").config.placement, find("ulysses").config.placement], ["contiguous", "zigzag"]);
  assertEquals([find("ring").config.train.shard, find("megatron").config.train.shard], ["weights", "none"]);
  assertEquals([find("usp").name, find("usp").config.mesh], ["usp 1 x 3", { ulysses: 1, ring: 3 }]);
  assertStringIncludes(find("ulysses").unsupported!, "Cannot split 4 heads across 3 ranks");
  assertEquals(find("ring").unsupported, undefined);
});

Deno.test("axes of a hybrid give all strategies their ranks", async () => {
  const { runs } = await plan("--compare-strategies --model=tiny --ulysses=2 --ring=3 --seq=64".split(" "));
  for (const { config } of runs) {
    assertEquals(config.ranks, config.strategy === "single" ? 1 : 6);
    assertEquals(config.mesh, config.strategy === "usp" ? { ulysses: 2, ring: 3 } : undefined);
  }
});

Deno.test("--longest takes a few steps under its budget, and no length", async () => {
  const { run, mode, maxTokens } = await plan(["--longest", "--memory-budget=8MiB", "--ranks=4"]);
  assertEquals([mode, run.memoryBudgetBytes, run.train.steps, run.warmup], ["longest", 8 * 2 ** 20, 2, 1]);
  assertEquals(maxTokens, 1_204_997);
});

Deno.test("impossible runs are refused with what would be possible", async () => {
  await assertRefused(["--strategy=single", "--ranks=2"], "--ranks=2 with --strategy=single: it runs on 1 rank");
  await assertRefused(["--strategy=single", "--placement=zigzag"], "--placement=zigzag with --strategy=single");
  await assertRefused(["--dim=100", "--heads=3"], "--dim must be a multiple of --heads");
  await assertRefused(["--dim=60", "--heads=4"], "head dim of 15: it must be even");
  await assertRefused(["--kv-heads=3"], "3 kv heads among 4 heads");
  await assertRefused(["--vocab=256"], "vocabulary of 256: it must be 257 or more");
  await assertRefused(["--ranks=4", "--seq=3"], "3 tokens across 4 ranks");
  await assertRefused(["--seq=2000000"], "it has 1204998 tokens, at least 2000001 are needed");
  await assertRefused(["--steps=2", "--warmup=2"], "--warmup=2 of --steps=2");
  await assertRefused(["--compare", "--verify"], "--compare with --verify");
  await assertRefused(["--compare", "--recompute=none"], "--recompute with --compare");
  await assertRefused(["--compare-strategies", "--strategy=ring"], "--strategy with --compare-strategies");
  await assertRefused(["--compare-strategies", "--ulysses=3", "--ranks=4"], "must be a multiple of 3");
  await assertRefused(["--compare-strategies", "--seq=700000"], "at least 1400001 are needed");
  await assertRefused(["--longest", "--verify", "--memory-budget=1GiB"], "--verify with --longest");
  await assertRefused(["--longest", "--seq=64", "--memory-budget=1GiB"], "--seq with --longest");
  await assertRefused(["--longest"], "--longest without --memory-budget");
  await assertRefused(["--device=webgpu"], "--device=webgpu: no GPU driver; on Debian", NO_GPU);
});

Deno.test("files and folders that cannot be used are refused", () =>
  withTempDir(async (folder) => {
    await assertRefused(["--data=/nowhere/a.txt"], "Cannot use --data=/nowhere/a.txt");
    await assertRefused(["--json=/nowhere/a.json"], "Cannot use --json=/nowhere/a.json");
    await assertRefused([`--json=${folder}`], `Cannot use --json=${folder}`);
    await assertRefused(["--model=tinny"], "neither tiny, 125m, 1b, 8b nor a folder, did you mean tiny?");
    await assertRefused(["--model=toString"], "neither tiny");
    await assertRefused([`--model=${folder}`], "config.json");
    await Deno.writeTextFile(`${folder}/config.json`, '{ "model_type": "gemma2" }');
    await assertRefused([`--model=${folder}`], 'model_type "gemma2": it must be "llama"');
    await Deno.writeTextFile(`${folder}/short.txt`, "call me");
    await assertRefused([`--data=${folder}/short.txt`, "--seq=64"], "it has 8 tokens, at least 65 are needed");
    await Deno.writeTextFile(`${folder}/bad.jsonl`, '{"text": "call me"}\n{"txt": "Ishmael"}\n');
    await assertRefused([`--data=${folder}/bad.jsonl`], 'bad.jsonl, line 2: it must be a JSON object whose "text" is');
    await Deno.writeTextFile(`${folder}/empty.jsonl`, "\n");
    await assertRefused([`--data=${folder}/empty.jsonl`], "empty.jsonl: it has no text");
    await Deno.writeTextFile(`${folder}/empty.txt`, "");
    await assertRefused([`--data=${folder}/empty.txt`], "empty.txt: it has no text");
  }));

Deno.test("documents are packed where they are asked for, or come as JSON lines", () =>
  withTempDir(async (folder) => {
    assertEquals((await plan([])).run.train.packed, false);
    const { run } = await plan(["--pack", String.raw`--separator=\n\t--`]);
    assertEquals([run.train.packed, run.separator], [true, "\n\t--"]);
    const lines = `--data=${folder}/documents.jsonl`;
    await Deno.writeTextFile(`${folder}/documents.jsonl`, JSON.stringify({ text: "call me Ishmael" }));
    assertEquals((await plan([lines, "--seq=8"])).run.train.packed, true);
    await assertRefused(["--separator=--"], "Cannot use --separator without --pack");
    await assertRefused([lines, "--pack", "--separator=--"], `Cannot use --separator with ${lines}`);
  }));

Deno.test("checking a JSON file leaves it as it is", () =>
  withTempDir(async (folder) => {
    await plan([`--json=${folder}/a.json`]);
    assertEquals([...Deno.readDirSync(folder)], []);
    await Deno.writeTextFile(`${folder}/a.json`, "kept");
    await plan([`--json=${folder}/a.json`]);
    assertEquals(await Deno.readTextFile(`${folder}/a.json`), "kept");
  }));

Deno.test("what some hardware could run is left to the hardware at hand", async () => {
  const { flags } = parseFlags(["--device=webgpu", "--kv-heads=12", "--heads=12", "--dim=768"], BENCH_FLAGS);
  const inputs = await readBenchInputs(flags);
  checkBenchFlags(flags, inputs);
  assertThrows(() => resolveBenchPlan(flags, inputs, NO_GPU), UsageError, "no GPU driver");
});
