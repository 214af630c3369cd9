/**
 * Device memory of updates in backward, in closed form: which gradients there are beside the rest of a step, and how much is
 * held where groups of them are used up. A part of the memory estimate.
 *
 * @module
 */

import type { Shape } from "../tensor/shape.ts";

/** Bytes of a step that hold whether updates run in backward or not. */
export interface HeldBytes {
  /** Checkpoints of the blocks before the last. */
  readonly earlier: number;
  /** Checkpoints of the blocks before the one before the last. */
  readonly earlierOfNext: number;
  /** What a block keeps. */
  readonly kept: number;
  /** An activation. */
  readonly x: number;
  /** Input that is put back on the device at the end of a block's backward: of the last block's, and of the one before. */
  readonly putBack: readonly [number, number];
  /** What the embedding's backward needs beside its gradients. */
  readonly embeddingBytes: number;
  /** Number of blocks. */
  readonly layers: number;
}

/** Bytes for gradients of some weights. */
export interface GradientBytes {
  /** Gradients in f32. */
  readonly gradients: (group: readonly Shape[]) => number;
  /** A copy of them as they travel; 0 where nothing does. */
  readonly mirror: (group: readonly Shape[]) => number;
  /** Moments that come from the host for the update of these weights. */
  readonly momentPiece: (group: readonly Shape[]) => number;
  /** Gradients of tied embeddings, which are there throughout the blocks' backward. */
  readonly tied: number;
}

/** Weights whose gradients are complete at the same time. */
export interface GradientGroups {
  /** Of the head, without tied embeddings. */
  readonly head: readonly Shape[];
  /** Of a block. */
  readonly block: readonly Shape[];
  /** Of the embedding. */
  readonly embedding: readonly Shape[];
}

/** Memory of updates in backward. */
export interface UpdateMemory {
  /** Checkpoints, and gradients of other groups that are being summed, during the backward of a block, at most. */
  readonly besideBlock: number;
  /** Bytes at each moment in backward in which gradients are complete, without the gradient of activations and the loss. */
  readonly inBackward: readonly number[];
  /** Bytes beside the loss when backward is over. */
  readonly afterBackward: number;
}

/**
 * Updates of one rank, each right behind the backward of its group; or, where gradients are summed over ranks, after that
 * of the next group, beside whose gradients are then those that travel, and the copy that does.
 */
export function updateMemory(
  held: HeldBytes,
  { head, block, embedding }: GradientGroups,
  { gradients, mirror, momentPiece, tied }: GradientBytes,
): UpdateMemory {
  const { earlier, earlierOfNext, kept, x, putBack, embeddingBytes, layers } = held;
  const isSummed = mirror(embedding) > 0;
  const ofBlock = gradients(block) + tied;
  const ofHead = gradients(head) + tied;
  const table = gradients(embedding);
  const used = (group: readonly Shape[]) => gradients(group) + momentPiece(group);
  const underWay = (group: readonly Shape[]) => gradients(group) + mirror(group);
  if (!isSummed) {
    return {
      besideBlock: earlier,
      inBackward: [
        earlier + kept + x + ofHead + momentPiece(head),
        earlier + putBack[0] + ofBlock + momentPiece(block),
        table + momentPiece(embedding),
      ],
      afterBackward: 0,
    };
  }
  return {
    besideBlock: Math.max(earlier + underWay(head), layers > 1 ? earlierOfNext + underWay(block) : 0),
    inBackward: [ // what is always less than at another moment is left out, such as a block's gradients and their copy
      earlier + kept + x + ofHead + mirror(head),
      earlier + putBack[0] + ofBlock + used(head),
      layers > 1 ? earlierOfNext + putBack[1] + ofBlock + used(block) : 0,
      table + Math.max(underWay(block) + embeddingBytes, used(block), mirror(embedding)),
    ],
    afterBackward: table + momentPiece(embedding),
  };
}
