/**
 * How lanes turn scores into weights in the forward of attention on matrix units; see `attention_matrix_forward.ts`.
 *
 * @module
 */

import { isMet, type RangeLayout } from "./attention_bounds.ts";
import type { ForwardShape } from "./attention_forward_variant.ts";
import { eachRow, pairAt, pairOf } from "./attention_matrix_output.ts";
import { lines, MASKED, range } from "./attention_wgsl.ts";

/** How far `top` is put below the highest score, in powers of two, so that smaller weights keep their bits in f16. */
const HEADROOM = 4;

/** How far a score may rise above `top`: weights are at most 2 to this, and f16 ends at 2^16. */
const MOST_RISE = 12;

/** The condition on which a team, or where teams share barriers all of them, calls for {@linkcode raise}. */
export function ifRisen({ unit }: ForwardShape): string {
  if (unit === "subgroup") return `if (subgroupAny(highest > ${MOST_RISE}.0))`;
  return `if (local == 0u) { risen = 0u; }
      workgroupBarrier();
      if (highest > ${MOST_RISE}.0) { risen = 1u; }
      if (workgroupUniformLoad(&risen) != 0u)`;
}

/** `quad_max` and `quad_sum`, over the four lanes of a row. */
export function quadCode({ unit, invocations }: ForwardShape): string {
  const memory = unit === "subgroup"
    ? ""
    : `var<workgroup> quads: array<f32, ${invocations}>;\nvar<workgroup> risen: u32;`;
  return memory + (["max", "sum"] as const).map((name) => {
    const combine = (a: string, b: string) => name === "max" ? `max(${a}, ${b})` : `(${a} + ${b})`;
    const body = unit === "subgroup"
      ? `let both = ${combine("value", "subgroupShuffleXor(value, 1u)")};
  return ${combine("both", "subgroupShuffleXor(both, 2u)")};`
      : `quads[local] = value;
  workgroupBarrier();
  let first = local / 4u * 4u;
  let all = ${combine(combine("quads[first]", "quads[first + 1u]"), combine("quads[first + 2u]", "quads[first + 3u]"))};
  workgroupBarrier();
  return all;`;
    return `
fn quad_${name}(value: f32, local: u32) -> f32 {
  ${body}
}`;
  }).join("");
}

/** Scores of row `b` relative to nothing yet, scaled, and masked where a row may not see them. */
function scaled(shape: ForwardShape, layout: RangeLayout, b: number, j: number, masked: boolean): string {
  const score = `${pairOf(shape, b, j)} * scale`;
  if (!masked) return score;
  const met = [0, 1].map((i) => isMet(layout, "queries", `(key + ${8 * j + i}u + 2u * quad_column)`, b));
  return `select(vec2f(${MASKED}), ${score}, vec2<bool>(${met.join(", ")}))`;
}

/** Statements that put the weights of row `b` in place, from `score_j`, and add them up in `part_b`. */
function putWeights(shape: ForwardShape, b: number, see: (j: number) => string): string {
  const pairs = shape.step / 8;
  return `
${
    lines(pairs, (j) => `
      let relative_${j} = score_${j} - top_${b};
      ${see(j)}
      let weight_${j} = exp2(relative_${j});
      tiles[${pairAt(shape, b, j)}] = to_half(weight_${j}.x);
      tiles[${pairAt(shape, b, j)} + 1u] = to_half(weight_${j}.y);`)
  }
      let pair = ${range(pairs).map((j) => `weight_${j}`).join(" + ")};
      part_${b} = pair.x + pair.y;`;
}

/** Turns scores into weights, and finds the highest relative to its `top`. */
export function weights(shape: ForwardShape, layout: RangeLayout, masked: boolean): string {
  return eachRow(shape, (b) => `
    {
${lines(shape.step / 8, (j) => `      let score_${j} = ${scaled(shape, layout, b, j, masked)};`)}
${putWeights(shape, b, (j) => `highest = max(highest, max(relative_${j}.x, relative_${j}.y));`)}
    }`);
}

/** Moves `top` of the rows up to the scores of the tile, and makes the weights again. */
export function raise(shape: ForwardShape, layout: RangeLayout): string {
  const pairs = shape.step / 8;
  return eachRow(shape, (b) => `
      var shrink_${b} = 1.0;
      {
${lines(pairs, (j) => `      let score_${j} = ${scaled(shape, layout, b, j, true)};`)}
      let pair = ${range(pairs).map((j) => `score_${j}`).reduce((a, c) => `max(${a}, ${c})`)};
      let raised = max(top_${b}, quad_max(max(pair.x, pair.y), local) - ${HEADROOM}.0);
      shrink_${b} = exp2(top_${b} - raised);
      top_${b} = raised;
      total_${b} *= shrink_${b};
      {
${putWeights(shape, b, () => "")}
      }
      }`);
}
