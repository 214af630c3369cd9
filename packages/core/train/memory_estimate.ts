/**
 * Peak device memory of a training step in closed form, held equal to the ledger by tests.
 *
 * Memory can peak at five moments; the estimate is the largest. Of forward
 * only attention can be the peak, where a strategy needs more for its exchange than in backward; other moments of forward
 * cannot, since the same moment of the last block's backward holds the same tensors and the gradient beside them; neither
 * can the embedding, which holds less than the head. Legend: T rows (B × local tokens), S local
 * tokens, D width, H query heads, K kv heads, E head dim, F MLP width, V vocabulary, L layers, C rows of a mini-sequence.
 *
 * @module
 */

import { PARTIAL_SUMS } from "../backend/ops.ts";
import type { ModelConfig } from "../config/model_config.ts";
import type { TrainConfig } from "../config/train_config.ts";
import { rowsOfSlice } from "../layer/region.ts";
import { longestChunk } from "../mini_sequence/chunk_plan.ts";
import { attentionShape } from "../model/decoder.ts";
import { blockShapes, parameterSpecs, weightType } from "../model/parameters.ts";
import { weightLayout } from "../model/whole_weights.ts";
import {
  keepsAttentionOutput,
  KEPT_TENSORS,
  keptBytes,
  recomputesAttention,
  recomputesMlp,
} from "../recompute/policy.ts";
import { cutIntoLots } from "../strategy/lots.ts";
import type { AttentionMemory, SequenceStrategy } from "../strategy/strategy.ts";
import { dividedStates, ownSegment } from "../sharding/divided_states.ts";
import { partShape } from "../sharding/weight_part.ts";
import { momentType, PRECISIONS } from "../tensor/precision.ts";
import { type DType, ELEMENT_BYTES, elementBytes, elementCount, type Shape } from "../tensor/shape.ts";
import { MOMENT_PIECE_ELEMENTS } from "./moments.ts";
import { chunkCounts } from "./chunk_counts.ts";
import { updateMemory } from "./update_memory.ts";

/** A moment of a step and the bytes live at it. */
export interface MemoryMoment {
  /** When in the step. */
  readonly moment: "attention forward" | "head" | "mlp backward" | "attention backward" | "optimizer";
  /** Bytes of all tags. */
  readonly bytes: number;
}

/** Predicted device memory of one rank. */
export interface MemoryEstimate {
  /** Weights, gradients and optimizer states: what lives between steps. */
  readonly residentBytes: number;
  /** The highest total during a step. */
  readonly peakBytes: number;
  /** Every moment that can be the peak, highest first. */
  readonly moments: readonly MemoryMoment[];
}

/** The part of a strategy that the estimate asks. */
export type EstimatedStrategy = Pick<
  SequenceStrategy,
  "rank" | "ranks" | "partition" | "attentionMemory" | "tensorParallel"
>;

/** Predicts the memory of training steps of one rank, as the ledger will count it. */
export function estimateMemory(model: ModelConfig, train: TrainConfig, strategy: EstimatedStrategy): MemoryEstimate {
  const partition = strategy.partition(train.seqTokens);
  const T = train.batch * partition.positions[strategy.rank].length;
  const { dim: D, headDim: E, layers: L } = model;
  const { activations } = PRECISIONS[train.precision];
  const part = computedPart(model, train, strategy);
  const memory = strategy.attentionMemory(attentionShape(model, train.batch), partition, {
    packed: train.packed,
    activations,
    backwardIsNext: recomputesAttention(train.recompute),
  });
  const attention = attentionBytes(model, part, memory, train, T);

  const { residentBytes, whole, ofGradients, all } = stateBytes(model, train, strategy);
  const blockWeights = Object.values(blockShapes(model));
  const headShapes = [[model.vocab, D], [D]];
  const [block, head] = [whole(blockWeights), whole(headShapes)];
  const rotaryRows = train.packed ? part.attentionRows : part.attentionRows / train.batch;
  const rotary = part.attentionSlice.isAll ? rotaryRows * E : 0;
  const squares = sumsInBackward(train);
  const earlierLosses = train.accumulate - 1;
  const base = residentBytes + memory.heldBytes + (rotary + squares + earlierLosses) * ELEMENT_BYTES;

  const projected = part.attentionRows * part.ffn;
  const each = keptBytes({
    dim: D,
    rows: T,
    attentionBytes: memory.savedBytes,
    attentionOutputBytes: memory.keptBytes,
    projected,
    activations,
  });
  const kept = KEPT_TENSORS[train.recompute].reduce((sum, tensor) => sum + each[tensor], 0); // of one layer
  const x = T * D * part.activationBytes; // input of a block, or the gradient of its output
  const onHost = train.offload.includes("checkpoints") ? Math.max(0, L - train.deviceCheckpoints) : 0;
  const earlier = (L - 1 - onHost) * kept; // of the blocks before the last
  const earlierOfNext = Math.max(0, L - 2 - onHost) * kept; // of those before the one before the last
  const groups = {
    head: model.tiedEmbeddings ? [[D]] : headShapes,
    block: blockWeights,
    embedding: [[model.vocab, D]],
  };
  const updates = updateMemory(
    {
      ...{ earlier, earlierOfNext, kept, x, layers: L },
      putBack: [1, 2].map((done) => onHost >= L - done && L > done ? x : 0) as [number, number],
      embeddingBytes: (T + 3 * Math.min(T, model.vocab)) * ELEMENT_BYTES, // rows by token, and where each token's are
    },
    groups,
    ofGradients,
  );
  const input = base + x; // and the input of a block
  const lastForward = input + earlier + block.weights;
  const blockGradients = block.gradients + ofGradients.tied; // and what the head added to the embedding's
  const inBackward = block.weights + blockGradients + x + ELEMENT_BYTES; // gradient of its output, and the loss
  const lastBackward = input + updates.besideBlock + inBackward;
  const lastAttention = recomputesAttention(train.recompute) ? lastBackward : lastForward;

  const bytes: Record<MemoryMoment["moment"], number> = {
    "attention forward": lastAttention + attention.forward,
    "head": base + earlier + kept + head.weights + head.gradients + 2 * x + headBytes(model, part, T), // x, dx
    "mlp backward": lastBackward +
      Math.max(attention.between + x + mlpBackwardBytes(model, part, train, T), attention.reproduced),
    "attention backward": lastBackward + attention.backward,
    "optimizer": Math.max(
      residentBytes + (train.accumulate + 2 + (squares || PARTIAL_SUMS)) * ELEMENT_BYTES +
        (squares ? 0 : ofGradients.momentPiece(all)),
      residentBytes + train.accumulate * ELEMENT_BYTES + ofGradients.summedAfterBackward, // beside the losses
      // Beside the gradient of activations, and the loss.
      ...updates.inBackward.map((held) => squares && base + held + x + ELEMENT_BYTES),
      squares && residentBytes + updates.afterBackward + (squares + 1) * ELEMENT_BYTES,
    ),
  };
  const peaks = Object.entries(bytes)
    .map(([moment, bytes]) => ({ moment, bytes }) as MemoryMoment)
    .sort((a, b) => b.bytes - a.bytes);
  return { residentBytes, peakBytes: peaks[0].bytes, moments: peaks };
}

/** Sums that an update in backward holds throughout a step: of all groups, and of one where it decides about its update. */
function sumsInBackward({ optimizerInBackward, precision }: TrainConfig): number {
  if (!optimizerInBackward) return 0;
  return precision === "mixed" ? 2 * PARTIAL_SUMS + 2 : PARTIAL_SUMS;
}

/**
 * Bytes of weights, gradients and AdamW's moments that live between steps, and what is added while a group of weights is
 * whole.
 */
function stateBytes(model: ModelConfig, train: TrainConfig, strategy: EstimatedStrategy) {
  const divided = dividedStates(strategy, train.shard);
  const { placement } = weightLayout(model, strategy);
  const precision = PRECISIONS[train.precision];
  const bytesOf = (shapes: readonly Shape[], isDivided: boolean, type: (shape: Shape) => DType) =>
    shapes.reduce((sum, shape) => {
      const { start, end } = ownSegment(elementCount(shape), strategy, isDivided);
      return sum + (end - start) * elementBytes(type(shape));
    }, 0);
  const weights = (shape: Shape) => weightType(shape, precision);
  const gradients = () => "f32" as const;
  const moments = () => momentType(train);
  const all = parameterSpecs(model).map((weight) => partShape(weight.shape, placement(weight).part));
  const offloaded = train.offload.includes("optimizer");
  const inBackward = train.optimizerInBackward; // gradients are there in their backward alone
  return {
    residentBytes: bytesOf(all, divided.weights, weights) +
      (inBackward ? 0 : bytesOf(all, divided.gradients, gradients)) +
      (offloaded ? 0 : 2 * bytesOf(all, divided.moments, moments)),
    ofGradients: {
      gradients: (group: readonly Shape[]) => bytesOf(group, false, gradients),
      mirror: (group: readonly Shape[]) =>
        inBackward && strategy.ranks > 1 ? bytesOf(group, false, () => precision.activations) : 0,
      momentPiece: (group: readonly Shape[]) => {
        const sizes = group.map((shape) => bytesOf([shape], divided.moments, moments) / elementBytes(moments()));
        return offloaded ? 2 * Math.min(MOMENT_PIECE_ELEMENTS, Math.max(...sizes)) * elementBytes(moments()) : 0;
      },
      summedAfterBackward: strategy.ranks > 1 && !strategy.tensorParallel && !divided.moments && !inBackward
        ? travellingBytes(all, precision.activations)
        : 0,
      tied: inBackward && model.tiedEmbeddings ? model.vocab * model.dim * ELEMENT_BYTES : 0,
    },
    all,
    whole: (group: readonly Shape[]) => ({
      weights: divided.weights ? bytesOf(group, false, weights) : 0,
      gradients: divided.gradients || inBackward ? bytesOf(group, false, gradients) : 0,
    }),
  };
}

/** Bytes of the copies of gradients that travel at a time where they are summed after backward. */
function travellingBytes(shapes: readonly Shape[], dtype: DType): number {
  const sizes = shapes.map(elementCount);
  const lots = cutIntoLots(sizes).map(({ start, end }) =>
    sizes.slice(start, end).reduce((sum, size) => sum + size, 0) * elementBytes(dtype)
  );
  return Math.max(...lots.map((bytes, i) => bytes + (lots[i + 1] ?? 0)));
}

/** Rows of a slice: this rank's, and those of all ranks whose rows are gathered. */
interface SliceRows {
  readonly own: number;
  readonly all: number;
  /** Rows that an exchange holds beside the own ones: all, or none where nothing is gathered. */
  readonly exchanged: number;
}

/** What a rank computes: the widths of its weights, and the rows that it works on at a time. */
interface ComputedPart {
  readonly heads: number;
  readonly kvHeads: number;
  readonly ffn: number;
  readonly vocab: number;
  /** Bytes of an element of activations. */
  readonly activationBytes: number;
  /** Rows of attention, and of all mini-sequences together. */
  readonly attentionRows: number;
  /** Longest slice around attention, and whether it is the only one. */
  readonly attentionSlice: SliceRows & { readonly isAll: boolean };
  /** Longest mini-sequence of the MLP. */
  readonly mlpSlice: SliceRows;
  /** Longest mini-sequence of the head. */
  readonly headSlice: SliceRows;
}

function computedPart(model: ModelConfig, train: TrainConfig, strategy: EstimatedStrategy): ComputedPart {
  const { members, heads, kvHeads, placement, slices } = weightLayout(model, strategy);
  const { rows, mlpChunks, headChunks } = chunkCounts(model, train, strategy);
  const { positions } = strategy.partition(train.seqTokens);
  const specs = parameterSpecs(model);
  const widthOf = (suffix: string) => {
    const weight = specs.find(({ name }) => name.endsWith(suffix))!;
    return partShape(weight.shape, placement(weight).part)[0];
  };
  const sliceRows = (own: number, all: number) => ({ own, all, exchanged: members.length > 1 ? all : 0 });
  const longest = (chunks: number) => {
    const counts = rows.map((count) => longestChunk(count, chunks));
    return sliceRows(counts[members.indexOf(strategy.rank)], counts.reduce((sum, count) => sum + count, 0));
  };
  const attentionSlices = slices({ batch: train.batch, positions })
    .map((slice) => sliceRows(slice.end - slice.start, rowsOfSlice(slice)));
  return {
    heads,
    kvHeads,
    ffn: widthOf("gate_proj.weight"),
    vocab: widthOf("embed_tokens.weight"),
    activationBytes: elementBytes(PRECISIONS[train.precision].activations),
    attentionRows: attentionSlices.reduce((sum, { all }) => sum + all, 0),
    attentionSlice: {
      ...attentionSlices.reduce((longest, slice) => longest.all < slice.all ? slice : longest),
      isAll: attentionSlices.length === 1,
    },
    mlpSlice: longest(mlpChunks),
    headSlice: longest(headChunks),
  };
}

/**
 * Bytes of an attention layer beyond its input and dy: at most in forward and in backward, between the two, and while it
 * gets its output back.
 */
function attentionBytes(
  { dim: D, headDim: E }: ModelConfig,
  { heads: H, kvHeads: K, attentionRows, attentionSlice, activationBytes }: ComputedPart,
  memory: AttentionMemory,
  train: TrainConfig,
  T: number,
) {
  const { own, all, exchanged, isAll } = attentionSlice;
  const { savedBytes, keptBytes } = memory;
  const projectsAgain = keepsAttentionOutput(train.recompute);
  const rstd = T * ELEMENT_BYTES;
  const combined = (T + exchanged) * D * activationBytes; // y, and a term of the sum over ranks that is added to it
  const projected = attentionRows * (H + 2 * K) * E * activationBytes + // q, k, v or their gradients
    Math.max((own + exchanged) * D * activationBytes, isAll ? 0 : all * E * ELEMENT_BYTES); // normed input, or rotary angles
  return {
    forward: rstd + Math.max(memory.forwardBytes, projectsAgain ? 0 : savedBytes + combined),
    between: projectsAgain ? keptBytes : rstd + savedBytes,
    reproduced: projectsAgain ? keptBytes + combined : 0,
    backward: rstd +
      Math.max(
        savedBytes + (attentionRows * H * E + exchanged * D) * activationBytes, // dOut, and dy of all ranks
        memory.backwardBytes,
        projected + (projectsAgain ? keptBytes : 0),
        projectsAgain ? memory.rematerializeBytes : 0,
      ),
  };
}

/** Bytes of the MLP's mini-sequences beyond its input and dy. */
function mlpBackwardBytes(
  { dim: D }: ModelConfig,
  { ffn: F, attentionRows, mlpSlice: { own, all, exchanged }, activationBytes }: ComputedPart,
  train: TrainConfig,
  T: number,
): number {
  const [rstdRows, projectedRows] = recomputesMlp(train.recompute) ? [own, all] : [T, attentionRows];
  // The gradient of the activation beside dy of all ranks, or the normed input, or its gradient beside a term of the sum.
  const passed = exchanged * D + Math.max(all * F, own * D);
  return rstdRows * ELEMENT_BYTES + (2 * F * projectedRows + passed) * activationBytes;
}

/** Bytes of the head's mini-sequences beyond its input and dx. */
function headBytes(
  { dim: D }: ModelConfig,
  { vocab: V, headSlice: { own, all, exchanged }, activationBytes }: ComputedPart,
  T: number,
): number {
  const slice = own * ELEMENT_BYTES + (own * D + all * V) * activationBytes; // rstd, normed, logits
  if (exchanged === 0) return slice + 2 * T * ELEMENT_BYTES; // labels, losses
  // Normed input of all ranks, labels, log-sum-exp and logit at the label.
  return slice + exchanged * (D * activationBytes + 3 * ELEMENT_BYTES);
}
