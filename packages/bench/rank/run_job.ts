/**
 * What a rank does once it has a device and its peers: train, and note what that took.
 *
 * @module
 */

import {
  type Backend,
  batchFromPackedWindows,
  batchFromSequences,
  batchFromWindows,
  chunkCounts,
  DataSource,
  END_TOKEN,
  keptOfWeights,
  type KernelTime,
  readModelWeights,
  readText,
  type SequenceStrategy,
  type TokenBatch,
  Trainer,
} from "@mst/core";
import type { RankEvent, RankJob, RankResult } from "../launcher/rank_protocol.ts";
import { readGoldenSequence } from "../verify/golden_case.ts";
import { capture } from "./capture.ts";
import { hostPeakBytes } from "./host_memory.ts";

/** Options of {@linkcode runJob}. */
export interface RunJobOptions {
  /** What to do. */
  readonly job: RankJob;
  /** Device of this rank. */
  readonly backend: Backend;
  /** How sequences are spread over ranks. */
  readonly strategy: SequenceStrategy;
  /** Told every step. */
  readonly emit: (event: RankEvent) => void;
}

/** Trains for the steps of the run. */
export async function runJob({ job, backend, strategy, emit }: RunJobOptions): Promise<Omit<RankResult, "links">> {
  const { model, train, weightsFolder, warmup, profile, resume, save } = job.run;
  const taken = resume?.step ?? 0;
  const batchesOf = await openBatches(job);
  const weights = weightsFolder === undefined
    ? undefined
    : await readModelWeights(weightsFolder, model, keptOfWeights(model, strategy, train.shard));
  using trainer = new Trainer({ backend, strategy, model, train, weights });
  if (job.captureFolder !== undefined) {
    await capture({ job, folder: job.captureFolder, trainer, strategy, batches: batchesOf(0) });
  }
  if (resume) await trainer.resume(resume.folder, resume.step);
  for (let step = taken; step < train.steps; step++) {
    if (profile && step === taken + warmup) await backend.takeProfile();
    const report = await trainer.step(batchesOf(step));
    emit({ type: "step", report, peakBytes: backend.ledger.peak().totalBytes });
    if (save && (report.step === train.steps || report.step % (save.everySteps ?? Infinity) === 0)) {
      await trainer.save(save.folder, save.text);
      emit({ type: "saved", step: report.step });
    }
  }
  const { mlpChunks, headChunks } = chunkCounts(model, train, strategy);
  const work = {
    localTokens: train.batch * trainer.positions.length,
    miniSequences: { mlp: mlpChunks, head: headChunks },
    offloaded: trainer.offloadedBytes,
  };
  return await toResult(backend, work, profile ? await backend.takeProfile() : []);
}

/** The micro-batches of a step: the golden sequence every time, or the text in its order. */
async function openBatches({ run, goldenFolder }: RankJob): Promise<(step: number) => TokenBatch[]> {
  if (goldenFolder !== undefined) {
    const batch = batchFromSequences([await readGoldenSequence(goldenFolder)]);
    return () => [batch];
  }
  const { train, dataFile, separator } = run;
  const source = new DataSource(await readText(dataFile, { pack: train.packed, separator }), train);
  const toBatch = train.packed
    ? (windows: readonly Uint32Array[]) => batchFromPackedWindows(windows, END_TOKEN)
    : batchFromWindows;
  const range = (count: number) => Array.from({ length: count }, (_, i) => i);
  return (step) =>
    range(train.accumulate).map((microBatch) =>
      toBatch(range(train.batch).map((index) => source.sequence(step, microBatch, index)))
    );
}

async function toResult(
  backend: Backend,
  work: Pick<RankResult, "localTokens" | "miniSequences" | "offloaded">,
  profile: readonly KernelTime[],
): Promise<Omit<RankResult, "links">> {
  const { ledger } = backend;
  return {
    deviceName: backend.deviceName,
    isSoftware: backend.isSoftware,
    ...work,
    peak: ledger.peak(),
    highest: ledger.highest(),
    live: ledger.live(),
    reservedBytes: backend.peakReservedBytes,
    hostPeakBytes: await hostPeakBytes(),
    profile,
  };
}
