/**
 * Workgroup memory of the backward of attention on matrix units: tiles and weights of f16, and scores of f32, as arrays
 * of their own or, with views, weights over the scores that they come from. Places are expressions in f16 or f32.
 *
 * @module
 */

import type { MatrixShape } from "./attention_matrix_variant.ts";
import { storeHalves } from "./attention_wgsl.ts";

/** Names of the arrays, as `MatrixCode` takes them. */
export function arraysOf({ views }: MatrixShape): { tiles: string; weights: string; scores: string } {
  return views
    ? { tiles: "*tile_halves", weights: "*weight_halves", scores: "*score_floats" }
    : { tiles: "tiles", weights: "weights", scores: "scores" };
}

/** Declares the memory. */
export function memoryCode({ views, teams, tileElements, weightElements, scoreElements }: MatrixShape): string {
  if (views) {
    return `
var<workgroup> tiles: buffer<${2 * tileElements}>;
var<workgroup> scores: buffer<${4 * teams * scoreElements}>;
`;
  }
  return `
var<workgroup> tiles: array<half, ${tileElements}>;
var<workgroup> weights: array<half, ${teams * weightElements}>;
var<workgroup> scores: array<f32, ${teams * scoreElements}>;
`;
}

/** Declares the views at the start of the kernel, and where the scores and the weights of its team lie. */
export function placesCode({ views, teams, tileElements, weightElements, scoreElements }: MatrixShape): string {
  const floats = teams * scoreElements;
  return `${
    views
      ? `
  let tile_halves = bufferView<array<f16, ${tileElements}>>(&tiles, 0);
  let tile_pieces = bufferView<array<vec4u, ${tileElements / 8}>>(&tiles, 0);
  let score_floats = bufferView<array<f32, ${floats}>>(&scores, 0);
  let score_pieces = bufferView<array<vec4f, ${floats / 4}>>(&scores, 0);
  let weight_halves = bufferView<array<f16, ${2 * floats}>>(&scores, 0);
  let weight_pieces = bufferView<array<vec2u, ${floats / 2}>>(&scores, 0);`
      : ""
  }
  let scores_at = team * ${scoreElements}u;
  let weights_at = team * ${views ? 2 * scoreElements : weightElements}u;`;
}

/** Orders what a team stores and what it loads itself. */
export function teamBarrier({ views }: MatrixShape): string {
  return views ? "" : "workgroupBarrier();";
}

/** Stores eight elements, the vec4u `value`, in the tiles. */
export function storePiece({ views }: MatrixShape, at: string, value: string): string {
  if (views) return `\n    tile_pieces[(${at}) / 8u] = ${value};`;
  return storeHalves("tiles", at, value);
}

/** Four scores as a vec4f. */
export function fourScores({ views }: MatrixShape, at: string): string {
  if (views) return `score_pieces[(${at}) / 4u]`;
  return `vec4f(${[0, 1, 2, 3].map((i) => `scores[${at} + ${i}u]`).join(", ")})`;
}

/** Stores the vec4f `value` in the weights. */
export function storeWeights({ views }: MatrixShape, at: string, value: string): string {
  if (views) return `weight_pieces[(${at}) / 4u] = vec2u(pack2x16float(${value}.xy), pack2x16float(${value}.zw));`;
  return [0, 1, 2, 3].map((i) => `weights[${at} + ${i}u] = to_half(${value}.${"xyzw"[i]});`).join(" ");
}
