import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { STRATEGY_NAMES } from "@mst/bench";
import { MEMORY_TAGS } from "@mst/core";
import { benchReport, SMALL } from "../_support/bench_report.ts";
import { runCommand } from "../_support/processes.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const REFERENCE = ["--device=reference", ...SMALL];
const GOLDEN = new URL("../golden/", import.meta.url).pathname;

/** Rounding of f32 sums taken in another order, after three steps of AdamW. */
const SAME_LOSS = 1e-4;

Deno.test("a run over a ring reports configuration, losses, speed, times, memory and bytes", async () => {
  const { report, stdout, stderr } = await benchReport(["--strategy=ring", ...REFERENCE, "--warmup=1"]);
  assertEquals(report.format, "mst-bench-1");
  assertMatch(report.date, /^\d{4}-\d\d-\d\dT/);
  assertStringIncludes(report.command, "deno task bench --strategy=ring --device=reference");
  assertEquals(Object.keys(report.versions).sort(), ["deno", "mst", "typescript", "v8"]);
  const [{ name, config, summary }] = report.runs;
  assertEquals([name, config.ranks, config.train.seqTokens, config.model.dim], ["ring", 2, 70, 32]);
  assertEquals(summary.losses.length, 3);
  assert(summary.losses.every(Number.isFinite));
  // Untrained, every byte is about as likely as another: ln 257 = 5.55.
  assertAlmostEquals(summary.losses[0], Math.log(257), 0.2);
  assertLess(summary.losses[2], summary.losses[0]);
  assertEquals(summary.measuredSteps, 2);
  const { min, median, max } = summary.tokensPerSecond;
  assert(0 < min && min <= median && median <= max);
  assertGreater(summary.computeMs, 0);
  assertGreater(summary.optimizerMs, 0);
  assert(summary.communicationHidden! >= 0 && summary.communicationHidden! <= 1);
  assertEquals(summary.ranks.length, 2);
  for (const { peak, live, bytesSentPerStep, hostPeakBytes, reservedBytes } of summary.ranks) {
    assertEquals(Object.keys(peak.byTag), [...MEMORY_TAGS]);
    assertEquals(Object.values(peak.byTag).reduce((sum, bytes) => sum + bytes), peak.totalBytes);
    assertGreater(reservedBytes, 0);
    assertGreater(hostPeakBytes, peak.totalBytes);
    assertGreater(bytesSentPerStep, 0);
    const kept = MEMORY_TAGS.filter((tag) => live[tag] > 0);
    assertEquals(kept, ["weights", "gradients", "optimizer"]);
  }
  for (const part of ["tokens/s", "exposed communication", "hidden behind compute", "host peak", "CPU reference"]) {
    assertStringIncludes(stdout, part);
  }
  assertMatch(stderr, /ring: step 2\/3 {2}loss \d\.\d{4} {2}\S+ tokens\/s {2}\S+ \S+ a rank {2}.* left/);
});

Deno.test("losses do not depend on the strategy, the number of ranks or the placement", async () => {
  const args = [...REFERENCE, "--batch=2", "--accumulate=2", "--seed=7"];
  const runs = ["--strategy=single", "--ranks=1", "--ranks=2", "--ranks=3 --placement=contiguous", "--ranks=4"];
  runs.push("--strategy=ulysses --ranks=2", "--strategy=ulysses --ranks=4", "--ranks=3 --shard=optimizer");
  runs.push("--strategy=usp --ranks=4", "--strategy=usp --ulysses=2 --ring=3 --shard=optimizer");
  const [single, ...others] = await Promise.all(
    runs.map(async (flags) => (await benchReport([...args, ...flags.split(" ")])).report.runs[0].summary.losses),
  );
  for (const losses of others) {
    losses.forEach((loss, i) => assertAlmostEquals(loss, single[i], SAME_LOSS * single[i]));
  }
  const { report } = await benchReport([...REFERENCE, "--strategy=single", "--seed=8"]);
  assertGreater(Math.abs(report.runs[0].summary.losses[0] - single[0]), 1e-3, "The seed changes nothing");
});

Deno.test("losses of packed documents do not depend on the strategy and the number of ranks", () =>
  withTempDir(async (folder) => {
    const texts = Array.from({ length: 40 }, (_, i) => "call me Ishmael, ".repeat(i % 7) + i);
    await Deno.writeTextFile(`${folder}/a.jsonl`, texts.map((text) => JSON.stringify({ text })).join("\n"));
    const args = [...REFERENCE, `--data=${folder}/a.jsonl`, "--batch=2", "--accumulate=2"];
    const runs = ["--strategy=single", "--ranks=3 --recompute=none", "--strategy=ulysses --ranks=2 --shard=optimizer"];
    runs.push("--strategy=usp --ranks=4 --recompute=selective");
    const [single, ...others] = await Promise.all(
      runs.map(async (flags) => (await benchReport([...args, ...flags.split(" ")])).report.runs[0].summary),
    );
    assertGreater(single.documentsPerStep, 4, "more than a document in each of four sequences");
    for (const { losses, documentsPerStep } of others) {
      assertEquals(documentsPerStep, single.documentsPerStep);
      losses.forEach((loss, i) => assertAlmostEquals(loss, single.losses[i], SAME_LOSS * single.losses[i]));
    }
    const whole = await benchReport([...REFERENCE, "--strategy=single", "--pack", "--separator=no such text"]);
    const plain = await benchReport([...REFERENCE, "--strategy=single"]);
    assertEquals(whole.report.runs[0].summary.losses, plain.report.runs[0].summary.losses, "one document is no change");
    assertMatch(whole.stdout, /documents +1\.00 a step, of 70\.0 tokens on average/);
  }));

Deno.test("--compare shows what recomputation and mini-sequences save, at the same loss", async () => {
  const args = [...REFERENCE, "--strategy=single", "--seq=256", "--ffn=160", "--steps=2", "--compare"];
  const { report, stdout } = await benchReport(args);
  assertEquals(report.runs.map(({ name }) => name), ["vanilla", "recompute", "mini-sequence + recompute"]);
  const [vanilla, recompute, both] = report.ratios!;
  assertEquals([vanilla.peakMemory, vanilla.tokensPerSecond, vanilla.lossDifference], [1, 1, 0]);
  assertLess(recompute.peakMemory, 0.9);
  assertLess(both.peakMemory, recompute.peakMemory);
  for (const { lossDifference } of [recompute, both]) assertLess(lossDifference, 1e-5);
  assertMatch(stdout, /mini-sequence \+ recompute .* x .* x /);
});

Deno.test("--verify holds a ring against one rank", async () => {
  const { report, stdout } = await benchReport([...REFERENCE, "--ranks=3", "--verify"]);
  assertEquals(report.runs.map(({ name }) => name), ["ring", "single"]);
  const names = report.comparisons!.map(({ name }) => name);
  assert(["loss", "losses", "grad.lm_head.weight", "grad.model.norm.weight"].every((name) => names.includes(name)));
  assertEquals(names.length, 2 + 2 * 9 + 3, "loss, losses, nine weights a layer and three more");
  assert(report.comparisons!.every(({ passed }) => passed));
  assert(report.comparisons!.some(({ used }) => used > 0), "Nothing was compared");
  assertStringIncludes(stdout, "against one rank");
});

Deno.test("--memory-budget is kept, and a run that needs more ends with what it wanted", async () => {
  const args = [...REFERENCE, "--ranks=2"];
  const { peakDeviceBytes } = (await benchReport(args)).report.runs[0].summary;
  const { report } = await benchReport([...args, `--memory-budget=${peakDeviceBytes}`]);
  assertEquals(report.runs[0].summary.peakDeviceBytes, peakDeviceBytes);
  const budget = peakDeviceBytes - 1;
  const { code, stderr } = await runCommand("main.ts", [...args, `--memory-budget=${budget}`]);
  assertEquals(code, 1);
  const message = new RegExp(
    `rank \\d failed: MemoryBudgetError: Cannot allocate \\d+ bytes for \\w+ beside \\d+ live bytes: ` +
      `the memory budget is ${budget} bytes`,
  );
  assertMatch(stderr, message);
});

Deno.test("--compare-strategies puts every strategy beside one rank, at two lengths, in one table", async () => {
  const args = [...REFERENCE, "--compare-strategies", "--ranks=3", "--seq=24", "--steps=2", "--shard=weights"];
  const { report, stdout } = await benchReport(args);
  const parallel = STRATEGY_NAMES.filter((name) => name !== "single");
  assertEquals(report.runs.map(({ config }) => config.strategy), [24, 48].flatMap(() => ["single", ...parallel]));
  const ran = report.runs.filter(({ summary }) => summary);
  assertEquals(report.strategies!.map(({ name, seqTokens }) => [name, seqTokens]), [
    ...ran.map(({ name, config }) => [name, config.train.seqTokens]),
  ]);
  for (const { lossDifference, name, bytesSentPerStep, peakDeviceBytes } of report.strategies!) {
    assertLess(lossDifference, SAME_LOSS);
    assertEquals(bytesSentPerStep > 0, name !== "single");
    assertGreater(peakDeviceBytes, 0);
  }
  assert(report.strategies!.some(({ lossDifference }) => lossDifference > 0), "Nothing was compared");
  for (const { config, unsupported } of report.runs.filter(({ summary }) => !summary)) {
    assertMatch(stdout, new RegExp(`${config.strategy} +${config.train.seqTokens} +cannot`));
    assertStringIncludes(stdout, `${config.strategy}, ${config.train.seqTokens} tokens: ${unsupported}`);
  }
  assert(report.runs.some(({ unsupported }) => unsupported), "4 heads cannot be split across 3 ranks");
});

Deno.test("--longest finds by training how many tokens a budget holds", async () => {
  const args = [...SMALL.filter((flag) => !/seq|steps/.test(flag)), "--device=reference", "--ranks=2", "--longest"];
  const { report, stdout } = await benchReport([...args, "--memory-budget=750KiB"]);
  const { seqTokens, exceededTokens, budgetBytes, peakBytes, unitTokens } = report.longest!;
  assertEquals(budgetBytes, 750 * 1024);
  assertEquals(exceededTokens - seqTokens, unitTokens);
  assertEquals(peakBytes.length, 2);
  for (const bytes of peakBytes) assert(bytes <= budgetBytes && bytes > 0.98 * budgetBytes, `${peakBytes}`);
  assertEquals(report.runs.map(({ config }) => config.train.seqTokens), [seqTokens, exceededTokens]);
  assertMatch(report.runs[1].outOfMemory!, /MemoryBudgetError: Cannot allocate \d+ bytes/);
  assertStringIncludes(stdout, `${seqTokens} tokens under a budget of 750 KiB a rank`);
});

Deno.test("--longest fails when nothing fits", async () => {
  const args = ["--longest", "--memory-budget=1KiB", "--device=reference", "--ranks=1"];
  const { code, stdout } = await runCommand("main.ts", args);
  assertEquals(code, 1);
  assertStringIncludes(stdout, "no sequence fits in 1.00 KiB a rank: 1 tokens are too many");
});

Deno.test("--profile prints the time of kernels and what links can do", async () => {
  const { report, stdout } = await benchReport([...REFERENCE, "--profile", "--ranks=3"]);
  const { profile, links } = report.runs[0].summary;
  assert(
    profile!.some(({ kernel, totalMs, dispatches }) => kernel.includes("matmul") && totalMs > 0 && dispatches > 0),
  );
  assertMatch(stdout, /kernel \(rank 0\) +dispatches a step +ms a step +share/);
  assertEquals(links!.map(({ from, to }) => [from, to]), [[0, 1], [0, 2], [1, 2]]);
  for (const { roundTripMs, bytesPerSecond, bytesPerSecondBack } of links!) {
    assert([roundTripMs, bytesPerSecond, bytesPerSecondBack].every((value) => value > 0 && value < Infinity));
  }
  assertMatch(stdout, /link +round trip +there +back\n.*\nrank 0 to 1 +\d/);
});

Deno.test("a folder's model is trained from its weights", async () => {
  const args = ["--device=reference", "--seq=48", "--steps=1", "--strategy=single"];
  const { report } = await benchReport([...args, `--model=${GOLDEN}llama3`]);
  const [{ config, summary }] = report.runs;
  assertEquals([config.model.vocab, config.weightsFolder], [320, `${GOLDEN}llama3`]);
  // Its weights are larger than initial ones, which would start at ln 320 = 5.77.
  assertGreater(summary.losses[0], 5.85);
});

Deno.test("a file is trained on", () =>
  withTempDir(async (folder) => {
    await Deno.writeTextFile(`${folder}/text.txt`, "a".repeat(400));
    const args = [...REFERENCE, "--strategy=single", "--steps=30", "--lr=0.01", "--schedule=constant"];
    const { report } = await benchReport([...args, `--data=${folder}/text.txt`]);
    assertLess(report.runs[0].summary.losses.at(-1)!, 1, "A single letter is soon learnt");
  }));

Deno.test("--print-config prints the run and starts nothing", async () => {
  const args = ["--print-config", "--device=reference", "--ranks=3", "--seq=99"];
  const { code, stdout } = await runCommand("main.ts", args, { denyProcesses: true });
  assertEquals(code, 0);
  const { run, mode } = JSON.parse(stdout);
  assertEquals([mode, run.strategy, run.ranks, run.train.seqTokens, run.model.dim], ["train", "ring", 3, 99, 128]);
});

Deno.test("--help explains both commands", async () => {
  for (const file of ["main.ts", "verify_main.ts"] as const) {
    const { code, stdout } = await runCommand(file, ["--help"], { denyProcesses: true });
    assertEquals(code, 0);
    assertStringIncludes(stdout, "Usage: deno task");
    assertStringIncludes(stdout, "Examples:");
    assertStringIncludes(stdout, "--strategy=ring|");
  }
});

Deno.test("without a GPU driver a line says how to get one, and the reference backend computes", async () => {
  // No system has both of these.
  const environment = { DENO_WEBGPU_BACKEND: Deno.build.os === "darwin" ? "dx12" : "metal" };
  const { code, stdout, stderr } = await runCommand("main.ts", SMALL, { environment });
  assertEquals(code, 0, stderr);
  const [line] = stderr.split("\n");
  assertMatch(line, /no GPU driver: .*reference backend.*apt-get install mesa-vulkan-drivers/);
  assertStringIncludes(stdout, "CPU reference");
  const refused = await runCommand("main.ts", ["--device=webgpu", ...SMALL], { environment });
  assertEquals(refused.code, 2);
  assertStringIncludes(refused.stderr, "Cannot use --device=webgpu: no GPU driver");
});

Deno.test({
  name: "a report that the disk has no room for is said in a line, behind the printed one",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const args = [...REFERENCE, "--strategy=single", "--steps=1", "--json=/dev/full"];
    const { code, stdout, stderr } = await runCommand("main.ts", args);
    assertEquals(code, 2);
    assertStringIncludes(stdout, "tokens/s");
    assertMatch(stderr, /^error: Cannot write the report to --json=\/dev\/full: .*\nSee --help/m);
    assert(!stderr.includes("    at "), stderr);
  },
});
