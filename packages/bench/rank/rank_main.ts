/**
 * The process of one rank. The launcher starts it; its orders come by stdin, and it reports by stdout.
 *
 * @module
 */

import { type Backend, createReferenceBackend, createWebGpuBackend, measureLinks, type StepReport } from "@mst/core";
import type { RankEvent, RankOrder } from "../launcher/rank_protocol.ts";
import type { RunConfig } from "../config/run_config.ts";
import { strategyEntry } from "../scenario.ts";
import { toRankFailure } from "./failure.ts";
import { gatherReports, meetRanks } from "./meet.ts";
import { readOrders } from "./orders.ts";
import { runJob } from "./run_job.ts";

if (import.meta.main) await main();

async function main(): Promise<never> {
  // Ctrl-C reaches the whole foreground group; the launcher decides what becomes of the ranks.
  Deno.addSignalListener("SIGINT", () => {});
  const nextOrder = readOrders();
  const order = await nextOrder() as RankOrder;
  try {
    await runRank(order, nextOrder);
  } catch (error) {
    reportFailure(error);
  }
  return Deno.exit();
}

/** Opens the device, meets the other ranks and does the job. */
async function runRank(order: RankOrder, nextOrder: () => Promise<unknown>): Promise<void> {
  const { job, meeting } = order;
  const { run } = job;
  await using backend = await openBackend(run);
  emit({ type: "ready", deviceName: backend.deviceName, isSoftware: backend.isSoftware });
  const group = await meetRanks({ order, nextOrder, emit });
  const steps: StepReport[] = [];
  const note = (event: RankEvent) => {
    if (event.type === "step") steps.push(event.report);
    emit(event);
  };
  try {
    const { placement, mesh } = run;
    const strategy = strategyEntry(run.strategy).create({ backend, group, placement, mesh });
    const links = run.profile ? await measureLinks(group) : [];
    const result = { ...await runJob({ job, backend, strategy, emit: note }), links };
    emit({ type: "done", result, all: meeting && await gatherReports(group, { steps, result }) });
  } catch (error) {
    // First of all, since leaving a group that has failed takes its time.
    reportFailure(error);
    group.abort(error as Error);
  }
  await group.close();
}

function reportFailure(error: unknown): void {
  console.error(error);
  emit({ type: "failed", failure: toRankFailure(error) });
  Deno.exitCode = 1;
}

async function openBackend({ device, profile, memoryBudgetBytes }: RunConfig): Promise<Backend> {
  const options = { profile, memoryBudgetBytes };
  if (device === "reference") return createReferenceBackend(options);
  return await createWebGpuBackend({ ...options, provider: device === "dawn" ? "dawn" : "deno" });
}

/** Writes an event as one line, whole. */
function emit(event: RankEvent): void {
  let bytes = new TextEncoder().encode(`${JSON.stringify(event)}\n`);
  while (bytes.length > 0) bytes = bytes.subarray(Deno.stdout.writeSync(bytes));
}
