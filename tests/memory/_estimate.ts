/**
 * The memory estimate held to the ledger.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import {
  type Backend,
  elementBytes,
  elementCount,
  estimateMemory,
  type MemoryEstimate,
  type ModelConfig,
  momentType,
  pairedSegment,
  parameterSpecs,
  type SequenceStrategy,
  SHARD_STAGES,
  type TrainConfig,
  Trainer,
} from "@mst/core";
import { randomBatch } from "../_support/tiny_model.ts";

/** Asserts that steps hold what the estimate says, at most and afterwards, and returns it. */
export async function assertEstimate(
  backend: Backend,
  strategy: SequenceStrategy,
  { model, train, steps }: { model: ModelConfig; train: TrainConfig; steps: number },
): Promise<MemoryEstimate> {
  const estimate = estimateMemory(model, train, strategy);
  const what = `rank ${strategy.rank}, ${JSON.stringify(train)}, ${estimate.moments[0].moment}`;
  const trainer = new Trainer({ backend, strategy, model, train });
  for (let step = 1; step <= steps; step++) {
    backend.ledger.resetPeak();
    const batches = Array.from(
      { length: train.accumulate },
      (_, i) =>
        randomBatch(model, train.seqTokens, {
          ...{ batch: train.batch, seed: 10 * step + i },
          longestDocument: train.packed ? 7 : undefined,
        }),
    );
    await trainer.step(batches);
    assertEquals(backend.ledger.peak().totalBytes, estimate.peakBytes, `peak: ${what}`);
    const { weights, gradients, optimizer, ...others } = backend.ledger.live();
    assertEquals(weights + gradients + optimizer, estimate.residentBytes, `resident: ${what}`);
    assertEquals(Object.values(others).filter((bytes) => bytes !== 0), [], `left after a step: ${what}`);
    assertEquals([weights, gradients, optimizer], stateBytes(model, train, strategy), `states: ${what}`);
  }
  trainer[Symbol.dispose]();
  assertEquals(backend.ledger.liveBytes(), 0, `left at the end: ${what}`);
  return estimate;
}

/**
 * Weights, gradients and two moments: of all, or of this rank's segments or parts. No gradient
 * outlives a step whose updates run in backward, and no moment that is offloaded is there between steps.
 */
function stateBytes(
  model: ModelConfig,
  train: TrainConfig,
  strategy: SequenceStrategy,
): number[] {
  const { shard, optimizerInBackward, offload, precision } = train;
  const { rank, ranks, tensorParallel } = strategy;
  const placement = tensorParallel?.(model).placement;
  const weights = parameterSpecs(model).map(({ name, shape }) => {
    const { start = 0, end = 1, dim } = placement?.({ name, shape }).part ?? {};
    const all = dim === undefined ? elementCount(shape) : elementCount(shape) / shape[dim] * (end - start);
    const segment = pairedSegment(all, ranks, rank);
    return { all, own: segment.end - segment.start, bytes: precision === "mixed" && shape.length > 1 ? 2 : 4 };
  });
  const sum = (isDivided: boolean, bytesOf: (weight: typeof weights[number]) => number) =>
    weights.reduce((total, weight) => total + (isDivided ? weight.own : weight.all) * bytesOf(weight), 0);
  const stage = SHARD_STAGES.indexOf(shard);
  const momentBytes = 2 * elementBytes(momentType(train));
  return [
    sum(stage >= 3, ({ bytes }) => bytes),
    optimizerInBackward ? 0 : sum(stage >= 2, () => 4),
    offload.includes("optimizer") ? 0 : sum(stage >= 1, () => momentBytes),
  ];
}
