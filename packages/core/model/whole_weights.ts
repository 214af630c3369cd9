/**
 * Computing with whole weights: what the decoder does where the strategy splits none.
 *
 * @module
 */

import { type Backend, tensorFrom } from "../backend/backend.ts";
import { groupById } from "../backend/ops.ts";
import type { ModelConfig } from "../config/model_config.ts";
import { WHOLE_REGION } from "../layer/region.ts";
import { lmHeadLogits, lmHeadLoss, type LmHeadLossOptions, type LmHeadWeights } from "../mini_sequence/lm_head_loss.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import type { ComputedBatch, SplitComputation, TensorParallel, WeightLayout } from "../strategy/tensor_parallel.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { localRows } from "./token_batch.ts";

/** The part of a strategy that says where weights are. */
export type LayoutStrategy = Pick<SequenceStrategy, "rank" | "ranks" | "tensorParallel">;

/** How a strategy splits the weights of a model; every rank holds all of them unless it says otherwise. */
export function weightLayout(model: ModelConfig, strategy: LayoutStrategy): WeightLayout {
  return strategy.tensorParallel?.(model) ?? wholeLayout(model, strategy);
}

/** How ranks compute with the weights of a model; every rank by itself unless the strategy says otherwise. */
export function splitWeights(
  backend: Backend,
  model: ModelConfig,
  strategy: SequenceStrategy,
): WeightLayout & Pick<TensorParallel, "computation"> {
  return strategy.tensorParallel?.(model) ?? {
    ...wholeLayout(model, strategy),
    computation: (batch) => createWholeComputation(backend, batch, strategy.rank),
  };
}

function wholeLayout({ heads, kvHeads }: ModelConfig, { rank, ranks }: LayoutStrategy): WeightLayout {
  const sharers = Array.from({ length: ranks }, (_, r) => r);
  return {
    members: [rank],
    heads,
    kvHeads,
    placement: () => ({ sharers }),
    slices: ({ batch, positions }) => WHOLE_REGION.slices(batch * positions[rank].length),
  };
}

function createWholeComputation(
  backend: Backend,
  { batch, positions, activations }: ComputedBatch,
  rank: number,
): SplitComputation {
  const { ops } = backend;
  const own = (all: Uint32Array) => localRows(all, batch, positions[rank]);

  return {
    region: WHOLE_REGION,

    embed(ids: Uint32Array, table: Tensor): Promise<Tensor> {
      const local = own(ids);
      using rows = tensorFrom(backend, local, [local.length], "activations");
      const x = backend.empty([local.length, table.shape[1]], "activations", activations);
      ops.embedding(rows, table, x);
      return Promise.resolve(x);
    },

    embedBackward(ids: Uint32Array, dx: Tensor, dTable: Tensor): Promise<void> {
      addEmbeddingGradient(backend, own(ids), dx, dTable);
      return Promise.resolve();
    },

    headLoss(
      x: Tensor,
      labels: Uint32Array,
      weights: LmHeadWeights,
      options: LmHeadLossOptions,
    ): Promise<{ total: Tensor; dx: Tensor }> {
      using targets = tensorFrom(backend, own(labels), [x.shape[0]], "activations");
      const { losses, dx } = lmHeadLoss(backend, x, targets, weights, options);
      using rowLosses = losses;
      const total = backend.empty([1], "activations");
      ops.sum(rowLosses, total);
      return Promise.resolve({ total, dx });
    },

    async headLogits(x: Tensor, weights: LmHeadWeights, chunks: number): Promise<Float32Array> {
      const [rows, vocab] = [x.shape[0], weights.head.value.shape[0]];
      const all = new Float32Array(rows * vocab);
      await lmHeadLogits(backend, x, weights, chunks, async (slice, start) => {
        all.set(await backend.read(slice), start * vocab);
      });
      return all;
    },
  };
}

/** dTable [V, D] += rows of dx [T, D] by id. */
export function addEmbeddingGradient(backend: Backend, ids: Uint32Array, dx: Tensor, dTable: Tensor): void {
  const groups = groupById(ids);
  const segments = new Uint32Array(3 * Math.min(ids.length, dTable.shape[0])); // empty segments at the end
  segments.set(groups.segments);
  using order = tensorFrom(backend, groups.order, [ids.length], "activations");
  using bounds = tensorFrom(backend, segments, [segments.length / 3, 3], "activations");
  backend.ops.embeddingBackward(order, bounds, dx, dTable);
}
