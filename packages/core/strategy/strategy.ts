/**
 * The seam through which sequence parallelism is swapped per run.
 *
 * @module
 */

import type { AttentionShape } from "../backend/ops.ts";
import type { ModelConfig } from "../config/model_config.ts";
import type { Saved } from "../tensor/scope.ts";
import type { DType } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { HostMemory } from "../memory/host_memory.ts";
import type { TensorParallel } from "./tensor_parallel.ts";

/** Which global positions each rank owns. */
export interface TokenPartition {
  /** Tokens S of a whole sequence. */
  readonly seqTokens: number;
  /** For each rank, the global positions of its tokens in local order, ascending; together every position once. */
  readonly positions: readonly Uint32Array[];
}

/** What the caller of attention's forward knows of its backward. */
export interface AttentionForwardOptions {
  /**
   * Whether backward comes before any other forward of the run, as after a recomputation. What other ranks sent may then
   * wait for it in the memory of the host, which holds one layer's at a time. Default false.
   */
  readonly backwardIsNext?: boolean;
}

/**
 * Whole-sequence causal attention from this rank's tokens. Made per micro-batch, for one partition.
 *
 * Shapes: q and out [B·S_local, H·E]; k and v [B·S_local, K·E].
 */
export interface AttentionCore extends Disposable {
  /** Attention of the local queries; takes over q, k and v. `out` is owned by the caller. */
  forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options?: AttentionForwardOptions,
  ): Promise<{ out: Tensor; saved: Saved }>;
  /** Gradients of the local q, k and v, owned by the caller; takes over `dOut` and `saved`. */
  backward(dOut: Tensor, saved: Saved): Promise<{ dq: Tensor; dk: Tensor; dv: Tensor }>;
  /**
   * Keeps of what forward saved only what its kernel computed, `out` and log-sum-exp, tagged as checkpoints; takes over
   * `saved`. The rest comes back by `rematerialize`.
   */
  keep(saved: Saved): Saved;
  /** What forward saved, from q, k and v as they were and what was kept, without attending; takes over all four. */
  rematerialize(q: Tensor, k: Tensor, v: Tensor, kept: Saved): Promise<Saved>;
}

/** Time and bytes that a strategy spent on exchange since they were last taken. */
export interface ExchangeReport {
  /** Time in which at least one exchange was under way, in milliseconds. */
  readonly communicationMs: number;
  /** Payload bytes sent by this rank. */
  readonly bytesSent: number;
}

/** What attention's memory depends on besides shape and partition. */
export interface AttentionMemoryOptions {
  /** Whether sequences are packed from documents. Default false. */
  readonly packed?: boolean;
  /** Element type of q, k and v. Default f32. */
  readonly activations?: DType;
  /** `AttentionForwardOptions.backwardIsNext` of the forward that backward belongs to. Default false. */
  readonly backwardIsNext?: boolean;
}

/** Device bytes of an {@linkcode AttentionCore}, for the memory estimate. */
export interface AttentionMemory {
  /** Held for as long as it lives: positions. */
  readonly heldBytes: number;
  /** Held between forward and backward, `out` included, which the caller keeps until backward. */
  readonly savedBytes: number;
  /** Of these, what `keep` leaves. */
  readonly keptBytes: number;
  /** Held at most during forward; includes q, k, v and `out`. */
  readonly forwardBytes: number;
  /** Held at most during rematerialization; includes what was kept, q, k and v. */
  readonly rematerializeBytes: number;
  /** Held at most during backward; includes what forward saved, dOut, dq, dk and dv. */
  readonly backwardBytes: number;
}

/** A sum of gradients over ranks that is made while other work goes on. */
export interface Reduction {
  /**
   * Waits for the exchange and puts the sums into the gradients, which must be there until then; the result is the same to
   * the bit on every rank. Frees what the exchange held on the device, as {@linkcode Reduction.free} does.
   */
  finish(): Promise<void>;
  /** Gives up; may be called more than once. */
  free(): void;
}

/** How a sequence is spread over ranks, and what the ranks exchange. Layers never ask which strategy it is. */
export interface SequenceStrategy {
  /** Name on the command line. */
  readonly name: string;
  /** This process's number, from 0. */
  readonly rank: number;
  /** Number of ranks. */
  readonly ranks: number;
  /** Element types of activations that it takes; f32 alone when left out. */
  readonly activations?: readonly DType[];
  /**
   * Splits a sequence over the ranks.
   *
   * @throws {UnsupportedTopologyError} when it cannot be split
   */
  partition(seqTokens: number): TokenPartition;
  /**
   * Attention over the whole sequence for one micro-batch, within documents where there are any; disposed of by the
   * caller.
   *
   * @param documentStarts `TokenBatch.documentStarts` of all ranks' rows [B·S]
   */
  attention(shape: AttentionShape, partition: TokenPartition, documentStarts?: Uint32Array): AttentionCore;
  /**
   * How the weights of a model are split over ranks; left out where every rank computes with whole weights.
   *
   * @throws {UnsupportedTopologyError} when they cannot be split
   */
  readonly tensorParallel?: (model: ModelConfig) => TensorParallel;
  /** Closed-form device bytes of {@linkcode SequenceStrategy.attention}, for the memory estimate. */
  attentionMemory(
    shape: AttentionShape,
    partition: TokenPartition,
    options?: AttentionMemoryOptions,
  ): AttentionMemory;
  /** What values that are exchanged are best taken from; see {@linkcode ProcessGroup.memory}. */
  readonly memory: HostMemory;
  /**
   * Replaces every gradient by its sum over ranks; the result is the same to the bit on every rank. Gradients travel as
   * `dtype`, and the device holds a copy of some of them meanwhile; see `cutIntoLots`.
   */
  reduceGradients(gradients: readonly Tensor[], dtype: DType): Promise<void>;
  /**
   * Starts to do the same while other work goes on. Until it ends, the device holds a copy of the gradients as `dtype`,
   * tagged as communication. Ranks pair these calls by their order.
   */
  beginReduction(gradients: readonly Tensor[], dtype: DType): Reduction;
  /**
   * Puts this rank's segment of the sum over ranks into every gradient, `pairedSegment(size, ranks, rank)` of its
   * elements; the others stay as they are.
   */
  reduceScatterGradients(gradients: readonly Tensor[]): Promise<void>;
  /** Replaces all segments of every weight but this rank's by those of the ranks that own them. */
  gatherWeights(weights: readonly Tensor[]): Promise<void>;
  /**
   * Adds to `parts[rank]` the terms that the other ranks have for this one; `parts` has a term for every rank, in rank
   * order. Ranks pair these calls by their order, so terms may come when they are ready, whatever is exchanged meanwhile.
   */
  reduceScatter(parts: Promise<readonly Float32Array[]>): Promise<void>;
  /** Values of every rank, in rank order, owned by the caller; lengths may differ. */
  allGather(values: Float32Array): Promise<Float32Array[]>;
  /**
   * Gives rank 0 the values of every rank, in rank order, its own as they are; lengths may differ. The others resolve to
   * nothing, and wait until rank 0 has come to this call, so that no more than one call's values are there at a time.
   *
   * @param label what it is for, named in errors
   */
  gatherToFirst(values: Float32Array, label: string): Promise<Float32Array[]>;
  /** Sums of each number over ranks. */
  sumOverRanks(values: readonly number[]): Promise<number[]>;
  /** Tells peers which step is under way, for their error messages. */
  beginStep(step: number): void;
  /** Takes the exchange statistics since the last call. */
  takeExchange(): ExchangeReport;
}
