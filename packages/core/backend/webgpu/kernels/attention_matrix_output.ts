/**
 * How the forward of attention on matrix units reaches its output, which teams keep in matrices: some columns at a time,
 * through the memory of the scores; see `attention_matrix_forward.ts`.
 *
 * @module
 */

import type { ForwardShape } from "./attention_forward_variant.ts";
import { EMPTY, EMPTY_BOUND, lines, LN_2, range } from "./attention_wgsl.ts";
import { MATRIX_SIZE, type MatrixCode } from "./matrix_unit.ts";

/** A statement for each row that a lane works on. */
export function eachRow({ teamRows }: ForwardShape, line: (b: number) => string): string {
  return lines(teamRows / 8, line);
}

/** Place of the two scores of row `b` and columns 8j of a lane, in scores and, as rows are as wide, in weights. */
export function pairAt({ scoreStride }: ForwardShape, b: number, j: number): string {
  return `place + ${8 * (b * scoreStride + j)}u`;
}

/** The two scores. */
export function pairOf(shape: ForwardShape, b: number, j: number): string {
  return `vec2f(scores[${pairAt(shape, b, j)}], scores[${pairAt(shape, b, j)} + 1u])`;
}

/** The matrices of column `j` of the output, and where they lie in the scores: statements for each. */
function eachPlaced(
  { teamRows, scoreStride }: ForwardShape,
  j: number,
  line: (sum: string, at: string) => string,
): string {
  return lines(
    teamRows / MATRIX_SIZE,
    (i) => line(`sum_${i}_${j}`, `(team_row + ${MATRIX_SIZE * i}u) * ${scoreStride}u`),
  );
}

/**
 * Stands where lanes of a team use what others of it stored. Subgroups run in lockstep, and a barrier of the workgroup
 * would make teams wait for one another.
 */
export function teamBarrier({ unit }: ForwardShape): string {
  return unit === "subgroup" ? "" : "workgroupBarrier();";
}

/** Multiplies the sums of every row `b` by `shrink_b`. */
export function rescale(shape: ForwardShape, code: MatrixCode): string {
  const { headDim, scoreStride } = shape;
  return lines(headDim / MATRIX_SIZE, (j) => `
      ${teamBarrier(shape)}
${eachPlaced(shape, j, (sum, at) => `      ${code.store("scores", at, sum, scoreStride)}`)}
      ${teamBarrier(shape)}
${
    eachRow(shape, (b) =>
      lines(2, (c) => `
      {
        let pair = ${pairOf(shape, b, c)} * shrink_${b};
        scores[${pairAt(shape, b, c)}] = pair.x;
        scores[${pairAt(shape, b, c)} + 1u] = pair.y;
      }`))
  }
      ${teamBarrier(shape)}
${eachPlaced(shape, j, (sum, at) => `      ${sum} = ${code.sum("scores", at, scoreStride)};`)}`);
}

/** Loads the sums from what out holds, times the total that its row starts with. */
export function resumedSums(shape: ForwardShape, code: MatrixCode, total: number): string {
  const { scoreStride } = shape;
  return eachOutPiece(shape, (_b, at) =>
    `let words = out[${at}];

      ${
      lines(4, (i) =>
        `let pair_${i} = unpack2x16float(words.${"xyzw"[i]}) * ${total}.0;
      scores[source + ${2 * i}u] = pair_${i}.x;
      scores[source + ${2 * i + 1}u] = pair_${i}.y;`)
    }`, (j, move) => `
  workgroupBarrier();
${move}
  workgroupBarrier();
${eachPlaced(shape, j, (sum, at) => `  ${sum} = ${code.sum("scores", at, scoreStride)};`)}`);
}

/** Stores the output and the log-sum-exp. */
export function finish(shape: ForwardShape, code: MatrixCode): string {
  const { scoreStride } = shape;
  return eachRow(shape, (b) => `
  let empty_${b} = top_${b} < ${EMPTY_BOUND};
  let whole_${b} = select(quad_sum(total_${b}, local), 1.0, empty_${b});
  let factor_${b} = select(1.0 / whole_${b}, 0.0, empty_${b});
  if (row_${b} < params.queries && quad_column == 0u) {
    lse[params.lse_at + at_${b}] = select((top_${b} + log2(whole_${b})) * ${LN_2}, ${EMPTY}, empty_${b});
  }`) + eachOutPiece(
    shape,
    (b, at) =>
      `let words = vec4u(${
        range(4).map((i) =>
          `pack2x16float(vec2f(scores[source + ${2 * i}u], scores[source + ${2 * i + 1}u]) * factor_${b})`
        )
          .join(", ")
      });
      out[${at}] = words;`,
    (j, move) => `
  workgroupBarrier();
${eachPlaced(shape, j, (sum, at) => `  ${code.store("scores", at, sum, scoreStride)}`)}
  workgroupBarrier();
${move}`,
  );
}

/**
 * For each column of matrices `j`, what moves its rows in pieces of eight columns, shared out over the quads.
 *
 * @param piece moves the piece of row `b` between `source` on in the scores and place `at` of the output
 * @param around puts barriers and matrices around that
 */
function eachOutPiece(
  shape: ForwardShape,
  piece: (b: number, at: string) => string,
  around: (j: number, move: string) => string,
): string {
  const { headDim, scoreStride } = shape;
  return lines(headDim / MATRIX_SIZE, (j) =>
    around(
      j,
      eachRow(shape, (b) => `
  if (row_${b} < params.queries && quad_column < 2u) {
    let source = (lane_row + ${8 * b}u) * ${scoreStride}u + quad_column * 8u;
    let at = params.out_at + at_${b} * ${headDim / 8}u + ${2 * j}u + quad_column;
    ${piece(b, "at")}
  }`),
    ));
}
