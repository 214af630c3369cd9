/**
 * Megatron-LM's tensor and sequence parallelism as a sequence strategy (Shoeybi et al. 2019; Korthikanti et al. 2022).
 *
 * @module
 */

import {
  allReduceGradients,
  type AttentionShape,
  type Backend,
  checkHeadSplit,
  type ComputedBatch,
  contiguousPartition,
  createLocalAttention,
  createReplicatedWeights,
  ExchangeClock,
  headsOfRank,
  localAttentionMemory,
  type ModelConfig,
  type ProcessGroup,
  type SequenceStrategy,
  type SplitBatch,
  type SplitComputation,
  subgroup,
  type Tensor,
  type TensorParallel,
} from "@mst/core";
import { createRowExchange, type RowExchangeOptions } from "./row_exchange.ts";
import { windowedPartition, windowSlices } from "./token_windows.ts";
import { Vocabulary } from "./vocabulary.ts";
import { createVocabularyEmbedding } from "./vocabulary_embedding.ts";
import { createVocabularyHead } from "./vocabulary_head.ts";
import { checkMegatronTopology, placementOf } from "./weight_placement.ts";

/** What the strategy is made of. */
export interface MegatronOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** The ranks; each exchanges directly with every other. */
  readonly group: ProcessGroup;
  /**
   * Most tokens, over all ranks, whose rows are gathered at once around attention; never more than a rank owns. More of
   * them take more memory, fewer of them more exchanges, each of which waits for the device. Default 4096.
   */
  readonly windowTokens?: number;
}

/** Most tokens of a window where nothing is said: at some MiB of rows, the fixed cost of an exchange is small. */
const WINDOW_TOKENS = 4096;

/**
 * Splits each sequence over the ranks and, around projections, the weights instead: rows of all ranks are gathered before
 * projections split by columns, and sums over ranks scattered behind those split by rows, mini-sequence by
 * mini-sequence. Attention computes this rank's heads over the whole sequence. Weights, gradients and moments are held in
 * parts, norms whole.
 *
 * Query heads must be a multiple of the ranks; kv heads too, or the ranks a multiple of them, in which case several ranks
 * hold the same kv head and its gradients are summed. `attention`, `attentionMemory` and `tensorParallel` throw an
 * `UnsupportedTopologyError` otherwise; see `checkMegatronTopology`.
 */
export function createMegatronStrategy(
  { backend, group, windowTokens = WINDOW_TOKENS }: MegatronOptions,
): SequenceStrategy {
  const { size } = group;
  const clock = new ExchangeClock();
  const whole = (seqTokens: number) => contiguousPartition(seqTokens, 1);

  function ownHeads(shape: AttentionShape): AttentionShape {
    checkHeadSplit(shape, size);
    return { ...shape, ...headsOfRank(shape, size) };
  }

  return {
    ...createReplicatedWeights(backend, group, clock),
    name: "megatron",
    partition: (seqTokens) => windowedPartition(seqTokens, size, windowTokens),
    attention: (shape, { seqTokens }, documentStarts) =>
      createLocalAttention(backend, ownHeads(shape), whole(seqTokens), documentStarts),
    attentionMemory: (shape, { seqTokens }, options) =>
      localAttentionMemory(ownHeads(shape), whole(seqTokens), options),
    tensorParallel: size === 1
      ? undefined
      : (model) => createTensorParallel(model, { backend, group, clock, windowTokens }),
  };
}

/** The weights of a model, split over at least two ranks. */
function createTensorParallel(
  model: ModelConfig,
  { backend, group, clock, windowTokens }: RowExchangeOptions & { readonly windowTokens: number },
): TensorParallel {
  const { rank, size } = group;
  checkMegatronTopology(model, size);
  const rows = createRowExchange({ backend, group, clock });
  const vocabulary = new Vocabulary(model.vocab, size);
  const groups = new Map<string, ProcessGroup>();
  const slicesOf = (split: SplitBatch) => windowSlices(split, rank, windowTokens);

  return {
    ...headsOfRank(model, size),
    members: Array.from({ length: size }, (_, r) => r),
    placement: (weight, of = rank) => placementOf(weight, model, of, size),
    slices: slicesOf,

    computation(split: ComputedBatch): SplitComputation {
      const slices = slicesOf(split);
      return {
        region: { slices: () => slices, gather: rows.gather, scatterSum: rows.scatterSum },
        ...createVocabularyEmbedding({ backend, rank, rows, vocabulary, slices }),
        ...createVocabularyHead({ backend, rank, rows, vocabulary, split }),
      };
    },

    sumOver(ranks: readonly number[], tensors: readonly Tensor[]): Promise<void> {
      const key = ranks.join();
      const among = groups.get(key) ?? subgroup(group, ranks);
      groups.set(key, among);
      return clock.exchange(() => allReduceGradients(backend, among, tensors));
    },
  };
}
