/**
 * What the queries of attention see: all keys up to their own position, or those of their document.
 *
 * @module
 */

import { type Backend, tensorFrom } from "../backend/backend.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * `AttentionInputs.queryPositions` of the queries at some positions of every sequence, on the device: [S_local], or with
 * documents [B·S_local, 2]. Owned by the caller.
 *
 * @param positions global positions of the queries, ascending
 * @param documentStarts `TokenBatch.documentStarts` of the whole micro-batch [B·S]
 * @param batch sequences B
 */
export function queryPositions(
  backend: Backend,
  positions: Uint32Array,
  documentStarts: Uint32Array | undefined,
  batch: number,
): Tensor {
  if (!documentStarts) return tensorFrom(backend, positions, [positions.length], "activations");
  const ranges = queryRanges(positions, documentStarts, batch);
  return tensorFrom(backend, ranges, [ranges.length / 2, 2], "activations");
}

/** For each of B·S_local queries the position where its document starts, and its own. */
export function queryRanges(positions: Uint32Array, documentStarts: Uint32Array, batch: number): Uint32Array {
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

/** Elements of {@linkcode queryPositions}. */
export function queryPositionElements(tokens: number, batch: number, packed: boolean): number {
  return packed ? 2 * batch * tokens : tokens;
}
