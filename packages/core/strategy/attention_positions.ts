/**
 * Positions of this rank's queries and keys on the device, by which attention tells what each query sees: all keys up to
 * its own position, or those of its document alone.
 *
 * @module
 */

import { type Backend, tensorFrom } from "../backend/backend.ts";
import { ELEMENT_BYTES } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** The tensors `queryPositions` and `keyPositions` of `AttentionInputs`, for tokens that have both. */
export interface AttentionPositions extends Disposable {
  /** What each query sees: [S], or with documents [B·S, 2]. */
  readonly queryPositions: Tensor;
  /** Global positions [S]. */
  readonly keyPositions: Tensor;
}

/**
 * Puts positions on the device until they are disposed of.
 *
 * @param positions global positions of the tokens of each sequence, ascending
 * @param batch sequences B of the micro-batch
 * @param documentStarts `TokenBatch.documentStarts` of the whole micro-batch [B·S_global]
 */
export function uploadPositions(
  backend: Backend,
  positions: Uint32Array,
  batch: number,
  documentStarts?: Uint32Array,
): AttentionPositions {
  const keyPositions = tensorFrom(backend, positions, [positions.length], "activations");
  const queryPositions = documentStarts
    ? tensorFrom(backend, queryRanges(positions, batch, documentStarts), [batch * positions.length, 2], "activations")
    : keyPositions.share();
  return {
    queryPositions,
    keyPositions,
    [Symbol.dispose](): void {
      queryPositions.free();
      keyPositions.free();
    },
  };
}

/** Device bytes of {@linkcode uploadPositions}. */
export function positionBytes(tokens: number, batch: number, packed: boolean): number {
  return (tokens + (packed ? 2 * batch * tokens : 0)) * ELEMENT_BYTES;
}

/** For each row of q [B·S] the position where its document starts, and its own. */
export function queryRanges(positions: Uint32Array, batch: number, documentStarts: Uint32Array): Uint32Array {
  const seqTokens = documentStarts.length / batch;
  const ranges = new Uint32Array(2 * batch * positions.length);
  for (let b = 0, at = 0; b < batch; b++) {
    for (const position of positions) {
      ranges[at++] = documentStarts[b * seqTokens + position];
      ranges[at++] = position;
    }
  }
  return ranges;
}
