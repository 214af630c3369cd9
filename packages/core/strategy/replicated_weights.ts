/**
 * What strategies that keep all weights on every rank have in common: sums over ranks, and what exchange costs.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { DType } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ProcessGroup } from "../transport/process_group.ts";
import type { ExchangeClock } from "./exchange_clock.ts";
import { beginReduction, reduceInLots } from "./gradient_reduction.ts";
import type { ExchangeReport, Reduction, SequenceStrategy } from "./strategy.ts";
import {
  allGatherValues,
  allGatherWeights,
  gatherValuesToFirst,
  reduceScatterGradients,
  reduceScatterParts,
} from "./weight_exchange.ts";

/** The part of a strategy that replicated weights settle. */
export type ReplicatedWeights = Pick<
  SequenceStrategy,
  | "rank"
  | "ranks"
  | "memory"
  | "reduceGradients"
  | "beginReduction"
  | "reduceScatterGradients"
  | "gatherWeights"
  | "reduceScatter"
  | "allGather"
  | "gatherToFirst"
  | "sumOverRanks"
  | "beginStep"
  | "takeExchange"
>;

/**
 * That part over the ranks of a group, each of which computes gradients from tokens of its own.
 *
 * @param clock counts the reduction of gradients, and what else the strategy exchanges
 */
export function createReplicatedWeights(
  backend: Backend,
  group: ProcessGroup,
  clock: ExchangeClock,
): ReplicatedWeights {
  let bytesSentBefore = group.stats.bytesSent;
  let reductions = 0;

  function begin(gradients: readonly Tensor[], dtype: DType): Reduction {
    return beginReduction(gradients, { backend, group, clock, dtype, label: `sum ${reductions++}` });
  }

  return {
    rank: group.rank,
    ranks: group.size,
    memory: group.memory,

    async reduceGradients(gradients: readonly Tensor[], dtype: DType): Promise<void> {
      if (group.size > 1) await clock.exchange(() => reduceInLots(gradients, (lot) => begin(lot, dtype)));
    },

    beginReduction: begin,

    reduceScatterGradients(gradients: readonly Tensor[]): Promise<void> {
      return clock.exchange(() => reduceScatterGradients(backend, group, gradients));
    },

    gatherWeights(weights: readonly Tensor[]): Promise<void> {
      return clock.exchange(() => allGatherWeights(backend, group, weights));
    },

    async reduceScatter(parts: Promise<readonly Float32Array[]>): Promise<void> {
      const label = `reduction ${reductions++}`; // taken now, while ranks are at the same call
      const terms = await parts;
      await clock.exchange(() => reduceScatterParts(group, terms, label));
    },

    allGather(values: Float32Array): Promise<Float32Array[]> {
      return clock.exchange(() => allGatherValues(group, values));
    },

    gatherToFirst: (values, label) => gatherValuesToFirst(group, values, label),

    async sumOverRanks(values: readonly number[]): Promise<number[]> {
      const parts = await group.allGather(new Uint8Array(Float64Array.from(values).buffer));
      const sums = values.map(() => 0);
      for (const part of parts) {
        new Float64Array(part.buffer).forEach((value, i) => sums[i] += value);
      }
      return sums;
    },

    beginStep(step: number): void {
      group.step = step;
    },

    takeExchange(): ExchangeReport {
      const bytesSent = group.stats.bytesSent - bytesSentBefore;
      bytesSentBefore = group.stats.bytesSent;
      return { communicationMs: clock.takeMs(), bytesSent };
    },
  };
}
