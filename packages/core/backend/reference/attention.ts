/**
 * Causal attention by online softmax (Dao et al. 2022); scores exist for one tile of queries and keys only.
 * Dims: B batch, Sq and Sk query and key tokens of one sequence, H query heads, K kv heads, E head dim.
 *
 * @module
 */

import type { AttentionDims } from "../check_attention.ts";
import { type AttentionShape, EMPTY_LOG_SUM_EXP } from "../ops.ts";
import {
  KEY_TILE,
  keyRows,
  QUERY_TILE,
  queryRows,
  queryTiles,
  scoreMatrix,
  seenKeys,
  TileProducts,
} from "./attention_tiles.ts";
import { matrixOf, transposed } from "./panels.ts";

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
  shape: AttentionShape,
  dims: AttentionDims,
  resume: boolean,
): void {
  const { heads, headDim, scale } = shape;
  const seen = seenKeys(queryPositions, keyPositions, shape, dims);
  const products = new TileProducts(headDim);
  const scores = new Float64Array(QUERY_TILE * KEY_TILE);
  // Per query of a tile: highest score, and the sums of weights and of weighted values relative to it.
  const highest = new Float64Array(QUERY_TILE);
  const totals = new Float64Array(QUERY_TILE);
  const sums = new Float64Array(QUERY_TILE * headDim);
  for (const tile of queryTiles(shape, dims)) {
    for (let i = 0; i < tile.rows; i++) {
      const index = (tile.row + i) * heads + tile.head;
      highest[i] = resume ? logSumExp[index] : EMPTY_LOG_SUM_EXP;
      totals[i] = resume ? 1 : 0;
      for (let e = 0; e < headDim; e++) sums[i * headDim + e] = resume ? out[index * headDim + e] : 0;
    }
    const end = seen.end[tile.row + tile.rows - 1];
    for (let key = seen.start[tile.row]; key < end; key += KEY_TILE) {
      const keys = Math.min(KEY_TILE, end - key);
      const tileScores = scoreMatrix(scores, tile.rows, keys);
      const kTile = keyRows(k, tile, key, keys, shape, dims);
      const vTile = keyRows(v, tile, key, keys, shape, dims);
      products.multiply(queryRows(q, tile, shape), transposed(kTile), tileScores);
      for (let i = 0; i < tile.rows; i++) {
        const before = highest[i];
        const row = scores.subarray(i * KEY_TILE, i * KEY_TILE + keys);
        highest[i] = weighScores(row, scale, seen.start[tile.row + i] - key, seen.end[tile.row + i] - key, before);
        const rescale = Math.exp(before - highest[i]);
        totals[i] *= rescale;
        for (let j = 0; j < keys; j++) totals[i] += row[j];
        for (let e = 0; e < headDim; e++) sums[i * headDim + e] *= rescale;
      }
      products.multiply(tileScores, vTile, matrixOf(sums, tile.rows, headDim), { accumulate: true });
    }
    for (let i = 0; i < tile.rows; i++) {
      const index = (tile.row + i) * heads + tile.head;
      const empty = totals[i] === 0;
      logSumExp[index] = empty ? EMPTY_LOG_SUM_EXP : highest[i] + Math.log(totals[i]);
      for (let e = 0; e < headDim; e++) out[index * headDim + e] = empty ? 0 : sums[i * headDim + e] / totals[i];
    }
  }
}

/** delta [T, H] = Σ_e out · dOut of each row and head. */
export function attentionDelta(out: Float32Array, dOut: Float32Array, delta: Float32Array, headDim: number): void {
  for (let i = 0; i < delta.length; i++) {
    let sum = 0;
    for (let at = i * headDim; at < (i + 1) * headDim; at++) sum += out[at] * dOut[at];
    delta[i] = sum;
  }
}

/** dq, dk and dv += their gradients, from probabilities that are computed again; see `Ops.attentionBackward`. */
export function attentionBackward(
  { q, k, v, queryPositions, keyPositions }: AttentionArrays,
  dOut: Float32Array,
  logSumExp: Float32Array,
  delta: Float32Array,
  gradients: { dq: Float32Array; dk: Float32Array; dv: Float32Array },
  shape: AttentionShape,
  dims: AttentionDims,
): void {
  const { heads, headDim, scale } = shape;
  const seen = seenKeys(queryPositions, keyPositions, shape, dims);
  const products = new TileProducts(headDim);
  const weights = new Float64Array(QUERY_TILE * KEY_TILE);
  const dScores = new Float64Array(QUERY_TILE * KEY_TILE);
  const dq = new Float64Array(QUERY_TILE * headDim);
  // Every key collects from many queries: summed up in f64 before it is rounded.
  const dk = new Float64Array(gradients.dk.length);
  const dv = new Float64Array(gradients.dv.length);
  const accumulate = { accumulate: true };
  for (const tile of queryTiles(shape, dims)) {
    const qTile = queryRows(q, tile, shape);
    const dOutTile = queryRows(dOut, tile, shape);
    const dqTile = matrixOf(dq, tile.rows, headDim);
    const end = seen.end[tile.row + tile.rows - 1];
    dq.fill(0);
    for (let key = seen.start[tile.row]; key < end; key += KEY_TILE) {
      const keys = Math.min(KEY_TILE, end - key);
      const [kTile, vTile, dkTile, dvTile] = [k, v, dk, dv].map((x) => keyRows(x, tile, key, keys, shape, dims));
      const tileWeights = scoreMatrix(weights, tile.rows, keys);
      const tileDScores = scoreMatrix(dScores, tile.rows, keys);
      products.multiply(qTile, transposed(kTile), tileWeights);
      products.multiply(dOutTile, transposed(vTile), tileDScores);
      for (let i = 0; i < tile.rows; i++) {
        const index = (tile.row + i) * heads + tile.head;
        const from = seen.start[tile.row + i] - key;
        const to = seen.end[tile.row + i] - key;
        for (let j = 0, at = i * KEY_TILE; j < keys; j++, at++) {
          weights[at] = j >= from && j < to ? Math.exp(scale * weights[at] - logSumExp[index]) : 0;
          dScores[at] = scale * weights[at] * (dScores[at] - delta[index]);
        }
      }
      products.multiply(transposed(tileWeights), dOutTile, dvTile, accumulate);
      products.multiply(transposed(tileDScores), qTile, dkTile, accumulate);
      products.multiply(tileDScores, kTile, dqTile, accumulate);
    }
    for (let i = 0; i < tile.rows; i++) {
      const at = ((tile.row + i) * heads + tile.head) * headDim;
      for (let e = 0; e < headDim; e++) gradients.dq[at + e] += dq[i * headDim + e];
    }
  }
  for (let i = 0; i < dk.length; i++) gradients.dk[i] += dk[i];
  for (let i = 0; i < dv.length; i++) gradients.dv[i] += dv[i];
}

/**
 * Turns the scores of one query into weights exp(scale · score − highest), 0 before key `from` and from key `to` on, and
 * returns the highest scaled score, which is at least `before`.
 */
function weighScores(scores: Float64Array, scale: number, from: number, to: number, before: number): number {
  let highest = before;
  for (let j = 0; j < scores.length; j++) {
    scores[j] *= scale;
    if (j >= from && j < to && scores[j] > highest) highest = scores[j];
  }
  for (let j = 0; j < scores.length; j++) scores[j] = j >= from && j < to ? Math.exp(scores[j] - highest) : 0;
  return highest;
}
