import { assert, assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { MEMORY_TAGS, MODEL_PRESETS, parseTrainConfig, type StepReport } from "@mst/core";
import type { RunConfig } from "../../packages/bench/config/run_config.ts";
import type { LaunchedRank } from "../../packages/bench/launcher/rank_protocol.ts";
import { spreadOf, summarize } from "../../packages/bench/measure/summary.ts";
import { formatVariants, variantRatios } from "../../packages/bench/report/comparison_report.ts";
import { Progress } from "../../packages/bench/report/progress.ts";
import { describeRun, formatRun } from "../../packages/bench/report/run_report.ts";
import { formatStrategies, strategyFigures } from "../../packages/bench/report/strategies_report.ts";
import { formatFacts, formatTable } from "../../packages/bench/report/table.ts";
import {
  formatBytes,
  formatError,
  formatMs,
  formatNumberOf,
  formatParameters,
  formatRate,
  formatSeconds,
} from "../../packages/bench/report/units.ts";

const RUN: RunConfig = {
  strategy: "ring",
  ranks: 2,
  placement: "zigzag",
  device: "reference",
  modelName: "tiny",
  model: MODEL_PRESETS.tiny,
  train: parseTrainConfig({ seqTokens: 100, batch: 2, accumulate: 5, steps: 4 }),
  warmup: 1,
  profile: true,
  timeoutSeconds: 60,
};

const NO_BYTES = Object.fromEntries(MEMORY_TAGS.map((tag) => [tag, 0])) as LaunchedRank["result"]["live"];

function report(step: number, values: Partial<StepReport> = {}): StepReport {
  return {
    step,
    loss: 6 - step,
    gradNorm: 1,
    learningRate: 1e-3,
    stepMs: 100,
    computeMs: 70,
    communicationMs: 40,
    exposedCommunicationMs: 10,
    optimizerMs: 20,
    bytesSent: 1000,
    documents: 10,
    ...values,
  };
}

function rankOf(stepMs: number[], peakBytes: number, values: Partial<StepReport> = {}): LaunchedRank {
  return {
    steps: stepMs.map((ms, i) => report(i + 1, { stepMs: ms, ...values })),
    result: {
      deviceName: "a device",
      isSoftware: true,
      localTokens: 100,
      miniSequences: { mlp: 2, head: 3 },
      peak: { totalBytes: peakBytes, byTag: { ...NO_BYTES, weights: peakBytes } },
      highest: NO_BYTES,
      live: NO_BYTES,
      reservedBytes: 2 * peakBytes,
      offloaded: { checkpoints: 0, optimizer: 0 },
      hostPeakBytes: 10,
      profile: [{ kernel: "matmul NN", dispatches: 30, totalMs: 60 }],
      links: [],
    },
  };
}

const LAUNCHED = [rankOf([900, 100, 200, 400], 2048), rankOf([50, 90, 250, 300], 4096, { computeMs: 50 })];

Deno.test("a summary leaves out the first steps and takes the slowest rank of each", () => {
  const summary = summarize(RUN, LAUNCHED);
  assertEquals(summary.losses, [5, 4, 3, 2]);
  assertEquals(summary.measuredSteps, 3);
  assertEquals(summary.stepMs, { median: 250, min: 100, max: 400 });
  assertEquals(summary.tokensPerSecond, { median: 4000, min: 2500, max: 10000 });
  assertEquals([summary.computeMs, summary.exposedCommunicationMs, summary.optimizerMs], [60, 10, 20]);
  assertAlmostEquals(summary.communicationHidden!, 0.75, 1e-12);
  assertEquals(summary.peakDeviceBytes, 4096);
  assertEquals(summary.ranks.map(({ bytesSentPerStep }) => bytesSentPerStep), [1000, 1000]);
});

Deno.test("without exchange there is nothing to hide", () => {
  const alone = rankOf([1, 2, 3, 4], 1, { communicationMs: 0, exposedCommunicationMs: 0 });
  assertEquals(summarize({ ...RUN, ranks: 1 }, [alone]).communicationHidden, undefined);
});

Deno.test("the middle of an even number of values is between two", () => {
  assertEquals(spreadOf([4, 1, 3, 2]), { median: 2.5, min: 1, max: 4 });
  assertEquals(spreadOf([7]), { median: 7, min: 7, max: 7 });
});

Deno.test("a run's report names device, losses, speed, times, memory and kernels", () => {
  const text = formatRun(RUN, summarize(RUN, LAUNCHED));
  for (
    const part of [
      "ring, 2 ranks, zigzag",
      "5 micro-batches of 2 sequences of 100 tokens a step",
      "a device",
      "5.0000 4.0000 3.0000 2.0000",
      "4,000 (2,500 to 10,000 over 3 steps)",
      "250 ms: compute 60.0 ms, exposed communication 10.0 ms, optimizer 20.0 ms",
      "75.0% hidden",
      "MLP 2 (auto), LM head 3 (auto); recompute layer; shard none",
      "4.00 KiB",
    ]
  ) assertStringIncludes(text, part);
  assert(/matmul NN\s+10\s+20\.000\s+100\.0%/.test(text));
  assert(!text.includes("round trip"), "One rank has no links");
});

Deno.test("a profile has a line for every link, whichever rank measured it", () => {
  const link = { from: 0, to: 1, roundTripMs: 1.5, bytesPerSecond: 2 ** 30, bytesPerSecondBack: 2 ** 20 };
  const launched = [[link, { ...link, to: 2 }], [{ ...link, from: 1, to: 2, roundTripMs: 20 }], []]
    .map((links) => {
      const rank = rankOf([1, 2, 3, 4], 1);
      return { ...rank, result: { ...rank.result, links } };
    });
  const summary = summarize({ ...RUN, ranks: 3 }, launched);
  assertEquals(summary.links!.map(({ from, to }) => [from, to]), [[0, 1], [0, 2], [1, 2]]);
  assert(summary.ranks.every((rank) => !("links" in rank)));
  const text = formatRun({ ...RUN, ranks: 3 }, summary);
  assert(/rank 0 to 1\s+1\.50 ms\s+1\.00 GiB\/s\s+1\.00 MiB\/s/.test(text), text);
  assert(/rank 1 to 2\s+20\.0 ms/.test(text), text);
  assertEquals(summarize({ ...RUN, profile: false }, LAUNCHED).links, undefined);
});

Deno.test("a packed run tells how many documents a step has, and how long they are", () => {
  const run: RunConfig = { ...RUN, train: { ...RUN.train, packed: true } };
  const launched = [rankOf([1, 2, 3, 4], 1)];
  assertStringIncludes(describeRun(run), "5 micro-batches of 2 sequences of 100 tokens a step, packed; reference");
  launched[0].steps.forEach((step, i) => Object.assign(step, { documents: [999, 30, 40, 50][i] }));
  assertStringIncludes(formatRun(run, summarize(run, launched)), "40.0 a step, of 25.0 tokens on average");
});

Deno.test("a step is described without what there is one of, and a run by one step", () => {
  const train = { ...RUN.train, batch: 1, accumulate: 1 };
  assertStringIncludes(describeRun({ ...RUN, train }), "V 257); 100 tokens a step; reference");
  const run = { ...RUN, warmup: 3 };
  assertStringIncludes(formatRun(run, summarize(run, LAUNCHED)), "over 1 step)");
});

Deno.test("a run of a folder's model tells whether its weights are those of the folder", () => {
  const told = (run: RunConfig) => formatRun(run, summarize(run, LAUNCHED)).match(/^weights +(.*)$/m)?.[1];
  const folder = { ...RUN, modelName: "a/llama" };
  assertEquals(told({ ...folder, weightsFolder: "a/llama" }), "of a/llama");
  assertEquals(told(folder), "initialised from seed 0");
  assertEquals(told({ ...folder, weightsFolder: "a/llama", resume: { folder: "a/llama", step: 1 } }), undefined);
  assertEquals(told(RUN), undefined);
});

Deno.test("a hybrid is described by its axes", () => {
  const run: RunConfig = { ...RUN, strategy: "usp", ranks: 6, mesh: { ulysses: 2, ring: 3 }, placement: "contiguous" };
  assertStringIncludes(describeRun(run), "usp, 6 ranks, ulysses 2 x ring 3, contiguous; model tiny");
  assertStringIncludes(
    describeRun({ ...run, memoryBudgetBytes: 2 ** 20 }),
    "tokens a step; reference, at most 1.00 MiB a rank",
  );
});

Deno.test("variants are compared with the first that ran, and one without memory is a row", () => {
  const fast = summarize(RUN, LAUNCHED);
  const slow = { ...fast, peakDeviceBytes: 1024, losses: [5, 4, 3, 2.02] };
  const variants = [
    { name: "vanilla", outOfMemory: "rank 0 failed: out of memory" },
    { name: "recompute", summary: fast },
    { name: "both", summary: { ...slow, tokensPerSecond: { median: 2000, min: 1, max: 1 } } },
  ];
  const [base, other] = variantRatios(variants);
  assertEquals(base, { name: "recompute", peakMemory: 1, tokensPerSecond: 1, lossDifference: 0 });
  assertEquals([other.peakMemory, other.tokensPerSecond], [0.25, 0.5]);
  assertAlmostEquals(other.lossDifference, 0.01, 1e-9);
  const text = formatVariants(variants);
  assertStringIncludes(text, "vanilla    out of memory");
  assertStringIncludes(text, "vanilla: rank 0 failed: out of memory");
  assertEquals(variantRatios([variants[0]]), []);
});

Deno.test("strategies are compared with one rank of their length, and what did not run is a row with its reason", () => {
  const summary = { ...summarize(RUN, LAUNCHED), losses: [5, 4, 3, 2] };
  const at = (seqTokens: number, ranks: number): RunConfig => ({ ...RUN, ranks, train: { ...RUN.train, seqTokens } });
  const runs = [
    { name: "single", config: at(100, 1), summary },
    { name: "ring", config: at(100, 2), summary: { ...summary, losses: [5, 4.04, 3, 2] } },
    { name: "ulysses", config: at(100, 2), unsupported: "Cannot split 3 heads" },
    { name: "single", config: at(200, 1), outOfMemory: "rank 0 failed: no memory" },
    { name: "ring", config: at(200, 2), summary },
  ];
  const [control, ring, alone] = strategyFigures(runs);
  assertEquals([control.lossDifference, alone.lossDifference, strategyFigures(runs).length], [0, undefined, 3]);
  assertAlmostEquals(ring.lossDifference!, 0.01, 1e-9);
  assertEquals([ring.bytesSentPerStep, ring.peakDeviceBytes, ring.exposedCommunicationMs], [2000, 4096, 10]);
  const lines = formatStrategies(runs).split("\n").map((line) => line.trim().split(/ {2,}/));
  assertEquals(lines.slice(2), [
    ["single", "100", "0", "4,000", "10.0 ms", "1.95 KiB", "4.00 KiB"],
    ["ring", "100", "1.0e-2", "4,000", "10.0 ms", "1.95 KiB", "4.00 KiB"],
    ["ulysses", "100", "cannot"],
    ["single", "200", "out of memory"],
    ["ring", "200", "unknown", "4,000", "10.0 ms", "1.95 KiB", "4.00 KiB"],
    [""],
    ["ulysses, 100 tokens: Cannot split 3 heads"],
    ["single, 200 tokens: rank 0 failed: no memory"],
  ]);
});

Deno.test("progress writes a line a step, or one over the other on a terminal", () => {
  const show = (isTerminal: boolean) => {
    let text = "";
    const progress = new Progress({ isTerminal, columns: 40, write: (part) => text += part }, RUN, "ring");
    progress.event(0, { type: "ready", deviceName: "a device", isSoftware: true });
    progress.event(0, { type: "step", report: report(1), peakBytes: 2048 });
    progress.event(1, { type: "step", report: report(1), peakBytes: 2048 });
    progress.event(0, { type: "step", report: report(2, { stepMs: 2000 }), peakBytes: 2048 });
    progress.end();
    return text;
  };
  assertEquals(show(false).split("\n"), [
    "ring: a device, setting up",
    "ring: step 1/4  loss 5.0000  10,000 tokens/s  2.00 KiB a rank  0 s left",
    "ring: step 2/4  loss 4.0000  500 tokens/s  2.00 KiB a rank  4 s left",
    "",
  ]);
  const lines = show(true).split("\r\x1b[2K");
  assertEquals(lines.length, 5);
  assert(lines.every((line) => line.length < 40 && !line.includes("\n")));
  assertEquals(lines.at(-1), "");
});

Deno.test("numbers are written with units", () => {
  assertEquals([0, 1023, 1024, 1536, 5 * 2 ** 30].map(formatBytes), [
    "0 B",
    "1023 B",
    "1.00 KiB",
    "1.50 KiB",
    "5.00 GiB",
  ]);
  assertEquals([2 ** 20 - 1, 9.999 * 2 ** 20].map(formatBytes), ["1.00 MiB", "10.0 MiB"]);
  assertEquals([0, 0.00916, 0.1234, 12.345, 1234.5].map(formatMs), [
    "0 ms",
    "0.009 ms",
    "0.123 ms",
    "12.3 ms",
    "1,235 ms",
  ]);
  assertEquals([1, 2000].map((count) => formatNumberOf(count, "step")), ["1 step", "2,000 steps"]);
  assertEquals([1, 2].map((count) => formatNumberOf(count, "batch", "batches")), ["1 batch", "2 batches"]);
  assertEquals([0.5, 99.9, 12345].map(formatRate), ["0.500", "99.9", "12,345"]);
  assertEquals([0.2, 59.6, 61, 7300].map(formatSeconds), ["0 s", "1 min 0 s", "1 min 1 s", "2 h 1 min"]);
  assertEquals([0, 1.23e-7, NaN].map(formatError), ["0", "1.2e-7", "not finite"]);
  assertEquals([804224, 124e6, 8.03e9].map(formatParameters), ["804K", "124M", "8.03B"]);
});

Deno.test("tables and facts are aligned", () => {
  assertEquals(
    formatTable(["a", "long"], [["name", "1"], ["b", "22222"]]),
    "a      long\n----  -----\nname      1\nb     22222",
  );
  assertEquals(formatFacts([["a", "1"], ["long", "2"]]), "a     1\nlong  2");
});
