/**
 * Attention with all scores at once, in f64: what the tiled kernels are held against.
 *
 * @module
 */

import { type AttentionShape, EMPTY_LOG_SUM_EXP } from "../../packages/core/backend/ops.ts";

/** Inputs of attention on the host; dims and meaning as in `AttentionInputs`. */
export interface AttentionCase {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  /** Positions [Sq], or with `ranged` first and last positions of each row [B·Sq, 2]. */
  queryPositions: Uint32Array;
  ranged?: boolean;
  keyPositions: Uint32Array;
  shape: AttentionShape;
}

/** out [B·Sq, H·E] and logSumExp [B·Sq, H] by softmax over a row of all scores. */
export function explicitAttention(
  { q, k, v, queryPositions, keyPositions, ranged = false, shape }: AttentionCase,
): { out: Float32Array; logSumExp: Float32Array } {
  const { batch, heads, kvHeads, headDim, scale } = shape;
  const [queries, keys] = [q.length / (batch * heads * headDim), keyPositions.length];
  const out = new Float32Array(q.length);
  const logSumExp = new Float32Array(batch * queries * heads).fill(EMPTY_LOG_SUM_EXP);
  for (let row = 0; row < batch * queries; row++) {
    const [sequence, query] = [Math.floor(row / queries), row % queries];
    for (let head = 0; head < heads; head++) {
      const [first, last] = ranged ? queryPositions.subarray(2 * row, 2 * row + 2) : [0, queryPositions[query]];
      const seen = [...keyPositions.keys()].filter((key) => keyPositions[key] >= first && keyPositions[key] <= last);
      if (seen.length === 0) continue;
      const qAt = (row * heads + head) * headDim;
      const kvHead = Math.floor(head / (heads / kvHeads));
      const kvAt = (key: number) => ((sequence * keys + key) * kvHeads + kvHead) * headDim;
      const scores = seen.map((key) => {
        let score = 0;
        for (let e = 0; e < headDim; e++) score += q[qAt + e] * k[kvAt(key) + e];
        return score * scale;
      });
      const highest = Math.max(...scores);
      const total = scores.reduce((sum, score) => sum + Math.exp(score - highest), 0);
      logSumExp[row * heads + head] = highest + Math.log(total);
      for (let e = 0; e < headDim; e++) {
        out[qAt + e] = seen.reduce((sum, key, i) => sum + Math.exp(scores[i] - highest) / total * v[kvAt(key) + e], 0);
      }
    }
  }
  return { out, logSumExp };
}
