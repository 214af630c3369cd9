/**
 * The text of one run's report.
 *
 * @module
 */

import {
  type Chunks,
  type KernelTime,
  type LinkProfile,
  MEMORY_TAGS,
  MODEL_PRESETS,
  momentType,
  OFFLOADS,
  parameterCount,
  type TrainConfig,
} from "@mst/core";
import { type BenchPlan, type PlannedRun, type RunConfig, stepTokens } from "../config/run_config.ts";
import type { RunSummary } from "../measure/summary.ts";
import { strategyEntry } from "../scenario.ts";
import { formatFacts, formatTable } from "./table.ts";
import {
  formatBytes,
  formatCount,
  formatMs,
  formatNumberOf,
  formatParameters,
  formatPercent,
  formatRate,
} from "./units.ts";

/** What a plan is, in a line. */
export function describePlan({ mode, run, runs }: BenchPlan): string {
  if (mode === "compare-strategies") return describeComparison(runs);
  if (mode === "longest") {
    return `longest sequence: ${[describeTopology(run), describeModel(run), describeDevice(run)].join("; ")}`;
  }
  return describeRun(run);
}

/** What the runs of `--compare-strategies` have in common, in a line. */
export function describeComparison(runs: readonly PlannedRun[]): string {
  const { ranks, memoryBudgetBytes } = runs.at(-1)!.config;
  const config = { ...runs[0].config, memoryBudgetBytes };
  const { train } = config;
  const shard = train.shard === "none" ? "none" : `${train.shard} where weights are whole`;
  return [
    `strategies over ${formatNumberOf(ranks, "rank")}`,
    describeModel(config),
    `${train.precision === "f32" ? "" : `${train.precision}, `}recompute ${train.recompute}, shard ${shard}${
      train.packed ? ", packed" : ""
    }`,
    describeDevice(config),
  ].join("; ");
}

/** What a run is, in a line. */
export function describeRun(run: RunConfig): string {
  const { train } = run;
  const packed = train.packed ? ", packed" : "";
  const precision = train.precision === "f32" ? [] : [train.precision];
  return [describeTopology(run), describeModel(run), describeStep(train) + packed, ...precision, describeDevice(run)]
    .join("; ");
}

/** The tokens of a step, such as `2 micro-batches of 4 sequences of 8,192 tokens a step`. */
function describeStep({ accumulate, batch, seqTokens }: TrainConfig): string {
  return [
    ...accumulate > 1 ? [formatNumberOf(accumulate, "micro-batch", "micro-batches")] : [],
    ...batch > 1 ? [formatNumberOf(batch, "sequence")] : [],
    `${formatNumberOf(seqTokens, "token")} a step`,
  ].join(" of ");
}

function describeTopology({ strategy, ranks, placement, mesh }: RunConfig): string {
  const { placements } = strategyEntry(strategy);
  return [
    strategy,
    formatNumberOf(ranks, "rank"),
    ...mesh ? [`ulysses ${mesh.ulysses} x ring ${mesh.ring}`] : [],
    ...placements.length > 0 ? [placement] : [],
  ].join(", ");
}

function describeDevice({ device, memoryBudgetBytes }: RunConfig): string {
  return memoryBudgetBytes === undefined ? device : `${device}, at most ${formatBytes(memoryBudgetBytes)} a rank`;
}

function describeModel({ model, modelName }: RunConfig): string {
  return `model ${modelName} of ${formatParameters(parameterCount(model))} parameters ` +
    `(d ${model.dim}, ${
      formatNumberOf(model.layers, "layer")
    }, ${model.heads}/${model.kvHeads} heads, MLP ${model.ffn}, V ${model.vocab})`;
}

/** Element types, and how the loss was scaled. */
function precisionFact({ train }: RunConfig, { lossScale, skippedSteps }: RunSummary): [string, string] {
  const skipped = skippedSteps > 0 ? `, ${formatNumberOf(skippedSteps, "step")} skipped as gradients overflowed` : "";
  return ["precision", `mixed; moments in ${momentType(train)}; loss scaled by ${lossScale}${skipped}`];
}

/** The report of one run. */
export function formatRun(run: RunConfig, summary: RunSummary): string {
  const { train } = run;
  const { tokensPerSecond, stepMs, losses, measuredSteps } = summary;
  const facts: [string, string][] = [
    ["device", summary.deviceName],
    [
      "mini-sequences",
      `${describeChunks(run, summary)}; recompute ${train.recompute}; shard ${train.shard}${describeOffload(train)}`,
    ],
    ...train.optimizerInBackward ? [["update", "in backward"] as [string, string]] : [],
    ...train.packed ? [documentFact(run, summary)] : [],
    ...weightsFact(run),
    ...checkpointFacts(run),
    ...train.precision === "mixed" ? [precisionFact(run, summary)] : [],
    ["loss", losses.map((loss) => loss.toFixed(4)).join(" ")],
    [
      "tokens/s",
      `${formatRate(tokensPerSecond.median)} (${formatRate(tokensPerSecond.min)} to ${
        formatRate(tokensPerSecond.max)
      } over ${formatNumberOf(measuredSteps, "step")})`,
    ],
    [
      "step",
      `${formatMs(stepMs.median)}: compute ${formatMs(summary.computeMs)}, exposed communication ${
        formatMs(summary.exposedCommunicationMs)
      }, optimizer ${formatMs(summary.optimizerMs)}`,
    ],
  ];
  if (summary.communicationHidden !== undefined) {
    facts.push(["exchange", `${formatPercent(summary.communicationHidden)} hidden behind compute`]);
  }
  const parts = [describeRun(run), formatFacts(facts), formatMemory(summary)];
  if (summary.profile) parts.push(formatProfile(summary.profile, measuredSteps));
  if (summary.links?.length) parts.push(formatLinks(summary.links));
  return parts.join("\n\n");
}

/** What is kept on the host, if anything. */
function describeOffload({ offload }: TrainConfig): string {
  return offload.length === 0 ? "" : `; offload ${offload.join(", ")}`;
}

/** Where the weights came from, if a folder was named; flags that change its shape leave its weights out. */
function weightsFact({ modelName, weightsFolder, resume, train }: RunConfig): [string, string][] {
  if (resume || Object.hasOwn(MODEL_PRESETS, modelName)) return [];
  return [["weights", weightsFolder ? `of ${weightsFolder}` : `initialised from seed ${train.seed}`]];
}

/** Where the run came from and where it has gone. */
function checkpointFacts({ train, resume, save }: RunConfig): [string, string][] {
  return [
    ...resume ? [["resumed", `${resume.folder}, after step ${resume.step} of ${train.steps}`] as [string, string]] : [],
    ...save ? [["saved", `${save.folder}, after step ${train.steps}`] as [string, string]] : [],
  ];
}

/** How many documents a step has, and how long they are. */
function documentFact({ train }: RunConfig, { documentsPerStep }: RunSummary): [string, string] {
  const tokens = stepTokens(train) / documentsPerStep;
  return ["documents", `${formatRate(documentsPerStep)} a step, of ${formatRate(tokens)} tokens on average`];
}

/** Mini-sequences per MLP and LM head, with what `auto` came to on the rank with the most tokens. */
function describeChunks({ train }: RunConfig, { ranks }: RunSummary): string {
  const most = (which: "mlp" | "head") => Math.max(...ranks.map(({ miniSequences }) => miniSequences[which]));
  const [mlp, head] = [most("mlp"), most("head")];
  const show = (chunks: Chunks, count: number) => chunks === "auto" ? `${count} (auto)` : String(count);
  return `MLP ${show(train.mlpChunks, mlp)}, LM head ${show(train.headChunks, head)}`;
}

/** Device bytes of every rank at its peak, by tag, and what else it used, with what it offloaded where there is any. */
export function formatMemory({ ranks }: RunSummary): string {
  const offloads = OFFLOADS.filter((what) => ranks.some(({ offloaded }) => offloaded[what] > 0));
  const onHost = offloads.map((what) => `${what} on host`);
  const head = ["rank", ...MEMORY_TAGS, "peak", "reserved", ...onHost, "host peak", "sent a step"];
  return formatTable(
    head,
    ranks.map(({ rank, peak, reservedBytes, offloaded, hostPeakBytes, bytesSentPerStep }) => [
      String(rank),
      ...MEMORY_TAGS.map((tag) => formatBytes(peak.byTag[tag])),
      formatBytes(peak.totalBytes),
      formatBytes(reservedBytes),
      ...offloads.map((what) => formatBytes(offloaded[what])),
      formatBytes(hostPeakBytes),
      formatBytes(bytesSentPerStep),
    ]),
  );
}

/** Time per kernel of rank 0, per step. */
export function formatProfile(profile: readonly KernelTime[], steps: number): string {
  const totalMs = profile.reduce((total, kernel) => total + kernel.totalMs, 0);
  return formatTable(
    ["kernel (rank 0)", "dispatches a step", "ms a step", "share"],
    profile.map(({ kernel, dispatches, totalMs: ms }) => [
      kernel,
      formatCount(dispatches / steps),
      (ms / steps).toFixed(3),
      formatPercent(ms / totalMs),
    ]),
  );
}

/** Latency and bandwidth of every link, measured before training. */
export function formatLinks(links: readonly LinkProfile[]): string {
  return formatTable(
    ["link", "round trip", "there", "back"],
    links.map(({ from, to, roundTripMs, bytesPerSecond, bytesPerSecondBack }) => [
      `rank ${from} to ${to}`,
      formatMs(roundTripMs),
      `${formatBytes(bytesPerSecond)}/s`,
      `${formatBytes(bytesPerSecondBack)}/s`,
    ]),
  );
}
