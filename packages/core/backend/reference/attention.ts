/**
 * Causal attention by online softmax (Dao et al. 2022), one query row at a time over blocks of keys.
 * Dims: B batch, Sq and Sk query and key tokens of one sequence, H query heads, K kv heads, E head dim.
 *
 * @module
 */

import type { AttentionDims } from "../check_attention.ts";
import { type AttentionShape, EMPTY_LOG_SUM_EXP } from "../ops.ts";

/** Keys whose scores are held at a time. */
const KEY_BLOCK = 64;

/** Elements of the inputs of attention; see `AttentionInputs`. */
export interface AttentionArrays {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly queryPositions: Uint32Array;
  readonly keyPositions: Uint32Array;
}

/** out [B·Sq, H·E] and logSumExp [B·Sq, H], afresh or resumed; see `Ops.attention`. */
export function attention(
  { q, k, v, queryPositions, keyPositions }: AttentionArrays,
  out: Float32Array,
  logSumExp: Float32Array,
  { batch, heads, kvHeads, headDim, scale }: AttentionShape,
  { queryTokens, keyTokens }: AttentionDims,
  resume: boolean,
): void {
  const visible = visibleKeys(queryPositions, keyPositions);
  const scores = new Float64Array(KEY_BLOCK);
  const sums = new Float64Array(headDim);
  const kvWidth = kvHeads * headDim;
  for (let row = 0; row < batch * queryTokens; row++) {
    const firstKey = Math.floor(row / queryTokens) * keyTokens;
    const end = firstKey + visible[row % queryTokens];
    for (let head = 0; head < heads; head++) {
      const at = (row * heads + head) * headDim;
      const kvOffset = Math.floor(head * kvHeads / heads) * headDim;
      let highest = resume ? logSumExp[row * heads + head] : EMPTY_LOG_SUM_EXP;
      let total = resume ? 1 : 0;
      for (let e = 0; e < headDim; e++) sums[e] = resume ? out[at + e] : 0;
      for (let start = firstKey; start < end; start += KEY_BLOCK) {
        const count = Math.min(KEY_BLOCK, end - start);
        const before = highest;
        for (let j = 0; j < count; j++) {
          scores[j] = scale * dot(q, at, k, (start + j) * kvWidth + kvOffset, headDim);
          if (scores[j] > highest) highest = scores[j];
        }
        const rescale = Math.exp(before - highest);
        total *= rescale;
        for (let e = 0; e < headDim; e++) sums[e] *= rescale;
        for (let j = 0; j < count; j++) {
          const weight = Math.exp(scores[j] - highest);
          total += weight;
          const from = (start + j) * kvWidth + kvOffset;
          for (let e = 0; e < headDim; e++) sums[e] += weight * v[from + e];
        }
      }
      logSumExp[row * heads + head] = total > 0 ? highest + Math.log(total) : EMPTY_LOG_SUM_EXP;
      for (let e = 0; e < headDim; e++) out[at + e] = total > 0 ? sums[e] / total : 0;
    }
  }
}

/** delta [T, H] = Σ_e out · dOut of each row and head. */
export function attentionDelta(out: Float32Array, dOut: Float32Array, delta: Float32Array, headDim: number): void {
  for (let i = 0; i < delta.length; i++) delta[i] = dot(out, i * headDim, dOut, i * headDim, headDim);
}

/** dq, dk and dv += their gradients, from probabilities that are computed again; see `Ops.attentionBackward`. */
export function attentionBackward(
  { q, k, v, queryPositions, keyPositions }: AttentionArrays,
  dOut: Float32Array,
  logSumExp: Float32Array,
  delta: Float32Array,
  gradients: { dq: Float32Array; dk: Float32Array; dv: Float32Array },
  { batch, heads, kvHeads, headDim, scale }: AttentionShape,
  { queryTokens, keyTokens }: AttentionDims,
): void {
  const visible = visibleKeys(queryPositions, keyPositions);
  const kvWidth = kvHeads * headDim;
  const dqOfRow = new Float64Array(headDim);
  // f64 sums of one sequence, since every key collects from many queries.
  const dk = new Float64Array(keyTokens * kvWidth);
  const dv = new Float64Array(keyTokens * kvWidth);
  for (let sequence = 0; sequence < batch; sequence++) {
    dk.fill(0);
    dv.fill(0);
    const kvStart = sequence * keyTokens * kvWidth;
    for (let query = 0; query < queryTokens; query++) {
      const row = sequence * queryTokens + query;
      for (let head = 0; head < heads; head++) {
        const at = (row * heads + head) * headDim;
        const kvOffset = Math.floor(head * kvHeads / heads) * headDim;
        dqOfRow.fill(0);
        for (let key = 0; key < visible[query]; key++) {
          const to = key * kvWidth + kvOffset;
          const from = kvStart + to;
          const score = scale * dot(q, at, k, from, headDim);
          const weight = Math.exp(score - logSumExp[row * heads + head]);
          const dScore = scale * weight * (dot(dOut, at, v, from, headDim) - delta[row * heads + head]);
          for (let e = 0; e < headDim; e++) {
            dqOfRow[e] += dScore * k[from + e];
            dk[to + e] += dScore * q[at + e];
            dv[to + e] += weight * dOut[at + e];
          }
        }
        for (let e = 0; e < headDim; e++) gradients.dq[at + e] += dqOfRow[e];
      }
    }
    for (let i = 0; i < dk.length; i++) gradients.dk[kvStart + i] += dk[i];
    for (let i = 0; i < dv.length; i++) gradients.dv[kvStart + i] += dv[i];
  }
}

/** Number of leading keys that each query sees; positions ascend on both sides. */
function visibleKeys(queryPositions: Uint32Array, keyPositions: Uint32Array): Uint32Array {
  let count = 0;
  return queryPositions.map((position) => {
    while (count < keyPositions.length && keyPositions[count] <= position) count++;
    return count;
  });
}

function dot(a: Float32Array, aStart: number, b: Float32Array, bStart: number, length: number): number {
  let even = 0;
  let odd = 0;
  let i = 0;
  for (; i + 1 < length; i += 2) {
    even += a[aStart + i] * b[bStart + i];
    odd += a[aStart + i + 1] * b[bStart + i + 1];
  }
  return i < length ? even + odd + a[aStart + i] * b[bStart + i] : even + odd;
}
