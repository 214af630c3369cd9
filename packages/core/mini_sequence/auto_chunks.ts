/**
 * How many mini-sequences `auto` stands for.
 *
 * The paper bounds them from above: slices of d rows for the MLP and ⌈V/d⌉ slices for the LM head, at which a slice reads
 * its weights about as often as its activations (Luo et al. 2024, section 3.4). Longer ones are faster: every slice reads
 * and writes the whole f32 gradients of its weights, 8 bytes each, for which a GPU could multiply them by about a
 * hundred rows, and products of few rows have few tiles. So a mini-sequence is as long as it hardly raises the peak.
 *
 * That is how much attention's backward, through which every step has to go, holds more than what the MLP and the head
 * have to hold beside their slices. Elements at these three moments under the policy `layer`, for N rows, of which
 * T = N / R are the own ones where those of R ranks are gathered (else R is 1), and slices of C of the N rows:
 *
 * - attention: q, dq in the place of out, dOut, k, v, dk, dv: N·(3H + 4K)·E, beside input and gradient of the block
 * - MLP: q, k, v and out, N·(2H + 2K)·E, its input T·D, gate, up and a gradient 3·C·F/R; C·D where rows are gathered
 * - head: T·D more than the input and gradient of a block, normed rows C·D/R, logits C·V/R; C·D where rows are gathered
 *
 * One input of a layer more may be taken for every eight layers, whose inputs are held all the while.
 *
 * @module
 */

import type { ModelConfig } from "../config/model_config.ts";

/** Mini-sequences of a model. */
export interface MiniSequences {
  /** Of the MLP. */
  readonly mlpChunks: number;
  /** Of the LM head. */
  readonly headChunks: number;
}

/** What a rank computes at a time. */
export interface ComputedRows {
  /** Rows N that are cut into mini-sequences, those of all ranks where they are gathered. */
  readonly rows: number;
  /** Ranks R whose rows are gathered, each with a part of the weights; 1 where none are. */
  readonly ranks: number;
  /** Query heads H of this rank's weights. */
  readonly heads: number;
  /** Key and value heads K of this rank's weights. */
  readonly kvHeads: number;
}

/** Rows of a mini-sequence of the MLP beyond which a large GPU gains less than 1%. */
const LONGEST_MLP_ROWS = 8192;

/** The same for the head, which is computed once a step, not once a layer, and holds several times as much a row. */
const LONGEST_HEAD_ROWS = 2048;

/** Fewest mini-sequences, unless the paper's are fewer: what three quarters of them would hold is never worth the time. */
const FEWEST_CHUNKS = 4;

/** Layers for which the input of one more may be held. */
const LAYERS_PER_INPUT = 8;

/** The rule of the paper (Luo et al. 2024, section 3.4): ⌈N/d⌉ mini-sequences of the MLP, ⌈V/d⌉ of the LM head. */
export function paperChunks({ dim, vocab }: ModelConfig, rows: number): MiniSequences {
  return { mlpChunks: Math.max(1, Math.ceil(rows / dim)), headChunks: Math.ceil(vocab / dim) };
}

/** The rule of `auto`: the fewest mini-sequences that hardly raise the peak, and no more than the paper's. */
export function autoChunks(model: ModelConfig, { rows, ranks: R, heads: H, kvHeads: K }: ComputedRows): MiniSequences {
  const { dim: D, headDim: E, ffn: F, vocab: V, layers } = model;
  const most = paperChunks(model, rows);
  const gathered = R > 1 ? D : 0;
  const more = (Math.floor(layers / LAYERS_PER_INPUT) - 1) * D / R; // what may be taken for a row, less its own input

  function count(most: number, longestRows: number, freePerRow: number, heldPerRow: number): number {
    const length = Math.min(longestRows, Math.floor(rows * freePerRow / heldPerRow));
    return Math.min(most, Math.max(FEWEST_CHUNKS, Math.ceil(rows / Math.max(1, length))));
  }

  return {
    mlpChunks: count(most.mlpChunks, LONGEST_MLP_ROWS, (H + 2 * K) * E + more, 3 * F / R + gathered),
    headChunks: count(most.headChunks, LONGEST_HEAD_ROWS, (3 * H + 4 * K) * E + more, (V + D) / R + gathered),
  };
}
