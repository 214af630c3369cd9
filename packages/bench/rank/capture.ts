/**
 * Writing down what a rank computes before its first step, for comparison with other runs.
 *
 * @module
 */

import {
  type HostTensor,
  parameterSpecs,
  type SequenceStrategy,
  type TokenBatch,
  type Trainer,
  writeSafetensors,
} from "@mst/core";
import type { RankJob } from "../launcher/rank_protocol.ts";

/** Options of {@linkcode capture}. */
export interface CaptureOptions {
  /** The rank's job. */
  readonly job: RankJob;
  /** Where to write to. */
  readonly folder: string;
  /** What computes. */
  readonly trainer: Trainer;
  /** How sequences are spread over ranks. */
  readonly strategy: SequenceStrategy;
  /** Micro-batches of the first step. */
  readonly batches: readonly TokenBatch[];
}

/** File of a rank in the capture folder. */
export function captureFile(folder: string, rank: number): string {
  return `${folder}/rank-${rank}.safetensors`;
}

/**
 * Writes `rank-N.safetensors`: of a golden sequence this rank's `logits` [T, V] and the `positions` [T] of its rows, and
 * on rank 0 the `loss` [1] and every gradient as `grad.NAME`, which are the same on all ranks.
 */
export async function capture({ job, folder, trainer, strategy, batches }: CaptureOptions): Promise<void> {
  const { model } = job.run;
  const tensors = new Map<string, HostTensor>();
  if (job.goldenFolder !== undefined) {
    const { positions } = trainer;
    tensors.set("logits", { shape: [positions.length, model.vocab], data: await trainer.logits(batches[0]) });
    tensors.set("positions", { shape: [positions.length], data: positions });
  }
  const { loss, gradients } = await trainer.gradients(batches);
  if (strategy.rank === 0) {
    tensors.set("loss", { shape: [1], data: Float32Array.of(loss) });
    for (const { name, shape } of parameterSpecs(model)) {
      const data = gradients.get(name);
      if (data) tensors.set(`grad.${name}`, { shape, data });
    }
  }
  await writeSafetensors(captureFile(folder, strategy.rank), tensors);
}
