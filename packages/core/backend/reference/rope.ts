/**
 * Rotary position embedding (Su et al. 2021), halves as in transformers' Llama. Dims: S tokens, H heads, E head dim.
 *
 * @module
 */

import type { RopeDims } from "../check_shapes.ts";

/** Rotates x [B·S, H·E] in place by table [S, E], forward or (`inverse`, the backward) back; see `Ops.rope`. */
export function rope(
  x: Float32Array,
  table: Float32Array,
  { rows, tokens, headDim }: RopeDims,
  inverse: boolean,
): void {
  const half = headDim / 2;
  const width = rows === 0 ? 0 : x.length / rows;
  const direction = inverse ? -1 : 1;
  for (let row = 0; row < rows; row++) {
    const angles = (row % tokens) * headDim;
    for (let at = row * width; at < (row + 1) * width; at += headDim) {
      for (let i = 0; i < half; i++) {
        const cosine = table[angles + i];
        const sine = direction * table[angles + half + i];
        const first = x[at + i];
        const second = x[at + half + i];
        x[at + i] = first * cosine - second * sine;
        x[at + half + i] = second * cosine + first * sine;
      }
    }
  }
}
