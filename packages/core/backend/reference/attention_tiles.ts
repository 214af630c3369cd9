/**
 * Tiles of attention: a few queries of one head against a few keys.
 *
 * @module
 */

import type { AttentionDims } from "../check_attention.ts";
import type { AttentionShape } from "../ops.ts";
import { type Matrix, multiplyPanels, packedSize, packRows, transposed } from "./panels.ts";

/** Queries of a tile. */
export const QUERY_TILE = 32;

/** Keys of a tile. */
export const KEY_TILE = 64;

/** Queries of one head of one sequence. */
export interface QueryTile {
  /** Number of the sequence in the batch. */
  readonly sequence: number;
  /** Query head. */
  readonly head: number;
  /** First query, counted within the sequence. */
  readonly query: number;
  /** First row of q. */
  readonly row: number;
  /** Number of queries. */
  readonly rows: number;
}

/** Every tile of queries, sequence by sequence. */
export function* queryTiles({ batch, heads }: AttentionShape, { queryTokens }: AttentionDims): Generator<QueryTile> {
  for (let sequence = 0; sequence < batch; sequence++) {
    for (let head = 0; head < heads; head++) {
      for (let query = 0; query < queryTokens; query += QUERY_TILE) {
        const rows = Math.min(QUERY_TILE, queryTokens - query);
        yield { sequence, head, query, row: sequence * queryTokens + query, rows };
      }
    }
  }
}

/** The keys of its sequence that each row of q sees: from `start` up to, but not including, `end`. */
export interface SeenKeys {
  readonly start: Uint32Array;
  readonly end: Uint32Array;
}

/** Finds the keys that each row sees; positions ascend on both sides, and ranges do not descend. */
export function seenKeys(
  queryPositions: Uint32Array,
  keyPositions: Uint32Array,
  { batch }: AttentionShape,
  { queryTokens, ranged }: AttentionDims,
): SeenKeys {
  const start = new Uint32Array(batch * queryTokens);
  const end = new Uint32Array(batch * queryTokens);
  const keys = keyPositions.length;
  for (let row = 0, first = 0, count = 0; row < end.length; row++) {
    if (row % queryTokens === 0) first = count = 0;
    const last = ranged ? queryPositions[2 * row + 1] : queryPositions[row % queryTokens];
    while (ranged && first < keys && keyPositions[first] < queryPositions[2 * row]) first++;
    while (count < keys && keyPositions[count] <= last) count++;
    [start[row], end[row]] = [first, count];
  }
  return { start, end };
}

/** Rows of one head in an array [tokens, heads · headDim]. */
export function headRows(
  elements: Float32Array | Float64Array,
  row: number,
  rows: number,
  head: number,
  heads: number,
  headDim: number,
): Matrix {
  const start = (row * heads + head) * headDim;
  return { elements, start, rows, columns: headDim, rowStride: heads * headDim, columnStride: 1 };
}

/** Rows of q, dOut or dq that belong to a tile of queries. */
export function queryRows(elements: Float32Array, tile: QueryTile, { heads, headDim }: AttentionShape): Matrix {
  return headRows(elements, tile.row, tile.rows, tile.head, heads, headDim);
}

/** Rows of k, v, dk or dv for the keys from `key` on (counted within the sequence) that a tile of queries meets. */
export function keyRows(
  elements: Float32Array | Float64Array,
  tile: QueryTile,
  key: number,
  keys: number,
  { heads, kvHeads, headDim }: AttentionShape,
  { keyTokens }: AttentionDims,
): Matrix {
  const kvHead = Math.floor(tile.head * kvHeads / heads);
  return headRows(elements, tile.sequence * keyTokens + key, keys, kvHead, kvHeads, headDim);
}

/** Scores of a tile: memory for `QUERY_TILE` × `KEY_TILE` numbers, of which the first rows and columns are used. */
export function scoreMatrix(elements: Float64Array, rows: number, columns: number): Matrix {
  return { elements, start: 0, rows, columns, rowStride: KEY_TILE, columnStride: 1 };
}

/** Products of the matrices of a tile, with memory for their packed factors. */
export class TileProducts {
  readonly #a: Float64Array;
  readonly #b: Float64Array;

  /** @param headDim head dim E */
  constructor(headDim: number) {
    const size = packedSize(Math.max(KEY_TILE, headDim), Math.max(KEY_TILE, headDim));
    this.#a = new Float64Array(size);
    this.#b = new Float64Array(size);
  }

  /** out [m, n] = or += a [m, k] · b [k, n]. */
  multiply(a: Matrix, b: Matrix, out: Matrix, options: { accumulate?: boolean } = {}): void {
    packRows(a, this.#a);
    packRows(transposed(b), this.#b);
    multiplyPanels(this.#a, this.#b, a.columns, out, options.accumulate ?? false);
  }
}
