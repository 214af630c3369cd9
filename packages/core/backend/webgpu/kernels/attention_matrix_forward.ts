/**
 * Forward of attention in f16 on matrix units (Dao 2023, section 3.1). A workgroup owns a tile of queries and walks over
 * the tiles of keys that any of them sees. Each of its teams owns some of the queries, and keeps them, and the output, in
 * matrices. As the elements of a matrix cannot be reached where it is kept, scores pass through workgroup memory: products
 * store them, lanes turn them into weights, and products load these. Nothing of that is shared with other teams.
 *
 * Rescaling the output would take it through workgroup memory, too. So weights are taken relative to a number near the
 * highest score so far, their `top`, which only moves when a score has risen far above it: they stay well below the
 * largest f16, and how far `top` lies from the highest score cancels in the end.
 *
 * A quad of lanes shares a row of scores, each lane two columns of eight.
 *
 * @module
 */

import { keysOfQuery, type RangeLayout } from "./attention_bounds.ts";
import { type ForwardShape, forwardShape, type ForwardVariant } from "./attention_forward_variant.ts";
import {
  ATTENTION_PARAMS,
  type AttentionLayout,
  EMPTY,
  FORWARD_OPERANDS,
  lines,
  LOG2_E,
  MASKED,
  matrixMain,
  storeHalves,
} from "./attention_wgsl.ts";
import { eachRow, finish, rescale, resumedSums, teamBarrier } from "./attention_matrix_output.ts";
import { ifRisen, quadCode, raise, weights } from "./attention_matrix_weights.ts";
import { MATRIX_SIZE, MatrixCode } from "./matrix_unit.ts";
import { declare } from "./wgsl.ts";

/** How far `top` lies below a log-sum-exp that is resumed from: the more keys it is of, the smaller are weights. */
const RESUMED_HEADROOM = 10;

/** WGSL of the forward, with rows bound as vec4u. `resume`: start from what out and lse hold. */
export function matrixForward(
  variant: ForwardVariant,
  layout: AttentionLayout,
  resume: boolean,
): string {
  const { headDim } = layout;
  const shape = forwardShape(variant, headDim);
  const { rows, teamRows, columns, step, invocations, scoreStride } = shape;
  const code = new MatrixCode(shape.unit);
  const turn = `
${scores(shape, code)}
      ${teamBarrier(shape)}
      var highest = f32(${MASKED});
${eachRow(shape, (b) => `      var part_${b} = 0.0;`)}
      if (key + ${step}u > seen.y${layout.ranged ? " || key < seen.w" : ""}) {
${weights(shape, layout, true)}
      } else {
${weights(shape, layout, false)}
      }
      ${ifRisen(shape)} {
${raise(shape, layout)}
${rescale(shape, code)}
        ${teamBarrier(shape)}
      }
${eachRow(shape, (b) => `      total_${b} += part_${b};`)}
      ${teamBarrier(shape)}
${accumulate(shape, code)}`;
  const body = `
  let kv_head = head * params.kv_heads / params.heads;
  let first_row = (params.tiles - 1u - index % params.tiles) * ${rows}u;
  let team_row = team * ${teamRows}u;
  let quad_column = lane % 4u;
  let lane_row = team_row + lane / 4u;
  let place = lane_row * ${scoreStride}u + 2u * quad_column;
  let scale = params.scale * ${LOG2_E};
${ownRows(shape, layout, resume)}
${loadQueries(shape, code)}
${eachMatrix(shape, headDim, (i, j) => `  var sum_${i}_${j} = Sum();`)}
${resume ? resumedSums(shape, code, 2 ** RESUMED_HEADROOM) : ""}
  let begin = ${layout.ranged ? "seen.z" : "0u"};
  let end = seen.x;
${declareTiles(shape)}
  if (begin < end) {
    let next = begin;
    ${load(shape, "k")}
    ${load(shape, "v")}
  }
  for (var tile = begin; tile < end; tile += ${columns}u) {
    workgroupBarrier();
    ${put(shape, "k")}
    ${put(shape, "v")}
    workgroupBarrier();
    let next = tile + ${columns}u;
    if (next < end) {
      ${load(shape, "k")}
      ${load(shape, "v")}
    }
    for (var column = 0u; column < min(${columns}u, end - tile); column += ${step}u) {
      let key = tile + column;
${turn}
    }
  }
${finish(shape, code)}
`;
  const operands = FORWARD_OPERANDS;
  const elements = { query_heads: "vec4u", key_heads: "vec4u", number: "f32", positions: "u32" };
  return `${shape.unit === "subgroup" ? "diagnostic(off, subgroup_uniformity);\n" : ""}${code.head}
${
    declare(
      operands.map(({ name, holds, access }) => [name, access, elements[holds]] as const),
      [...ATTENTION_PARAMS, ...operands.map(({ name }) => `${name}_at`)],
    )
  }${keysOfQuery(layout)}
var<workgroup> scores: array<f32, ${shape.scoreElements}>;
var<workgroup> tiles: array<half, ${shape.halfElements}>;
var<workgroup> row_bounds: array<${layout.ranged ? "vec2u" : "u32"}, ${rows}>;
var<workgroup> bounds: vec4u;
${code.functions}
${quadCode(shape)}${matrixMain(invocations, "params.heads", body)}`;
}

/** A line for each matrix of a team's queries and columns. */
function eachMatrix({ teamRows }: ForwardShape, columns: number, line: (i: number, j: number) => string): string {
  return lines(teamRows / MATRIX_SIZE, (i) => lines(columns / MATRIX_SIZE, (j) => line(i, j)));
}

/** Finds what the rows see, and what `top` and `total` of the lane's rows start from. */
function ownRows(shape: ForwardShape, { ranged }: RangeLayout, resume: boolean): string {
  const { rows, invocations } = shape;
  const visible = "visible_keys(sequence, own)";
  return `
  for (var row = local; row < ${rows}u; row += ${invocations}u) {
    let own = min(first_row + row, params.queries - 1u);
    row_bounds[row] = ${ranged ? `vec2u(first_key(sequence, own), ${visible})` : visible};
  }
  workgroupBarrier();
  if (local == 0u) {
    let first = row_bounds[0];
    let last = row_bounds[${rows - 1}];
    bounds = ${ranged ? "vec4u(last.y, first.y, first.x, last.x)" : "vec4u(last, first, 0u, 0u)"};
  }
  let seen = workgroupUniformLoad(&bounds);
${
    eachRow(shape, (b) => `
  let row_${b} = first_row + lane_row + ${8 * b}u;
  let at_${b} = (sequence * params.queries + min(row_${b}, params.queries - 1u)) * params.heads + head;
  ${
      ranged
        ? `let from_${b} = row_bounds[lane_row + ${8 * b}u].x;
  let count_${b} = row_bounds[lane_row + ${8 * b}u].y - from_${b};`
        : `let count_${b} = row_bounds[lane_row + ${8 * b}u];`
    }
  ${
      resume
        ? `var top_${b} = lse[params.lse_at + at_${b}] * ${LOG2_E} - ${RESUMED_HEADROOM}.0;
  var total_${b} = select(0.0, ${2 ** RESUMED_HEADROOM}.0, quad_column == 0u);`
        : `var top_${b} = f32(${EMPTY});
  var total_${b} = 0.0;`
    }`)
  }`;
}

/** Declares `query_i_e`, the matrices of a team's queries, which pass through the memory of the tiles. */
function loadQueries(shape: ForwardShape, code: MatrixCode): string {
  const { rows, headDim, queryColumns, invocations } = shape;
  const pieces = queryColumns / 8;
  const stride = queryColumns + 8;
  return lines(headDim / queryColumns, (part) => `
  workgroupBarrier();
${
    lines(rows * pieces / invocations, (u) => `
  {
    let row = (local + ${u * invocations}u) / ${pieces}u;
    let piece = (local + ${u * invocations}u) % ${pieces}u;
    let source = (sequence * params.queries + min(first_row + row, params.queries - 1u)) * params.heads + head;
    let value = q[params.q_at + source * ${headDim / 8}u + ${part * pieces}u + piece];
    ${storeHalves("tiles", `row * ${stride}u + piece * 8u`, "value")}
  }`)
  }
  workgroupBarrier();
${
    eachMatrix(shape, queryColumns, (i, e) => {
      const at = `(team_row + ${MATRIX_SIZE * i}u) * ${stride}u + ${MATRIX_SIZE * e}u`;
      return `  let query_${i}_${part * queryColumns / MATRIX_SIZE + e} = ${code.left("tiles", at, stride)};`;
    })
  }`);
}

/** Where load `u` of an invocation in a tile comes from, and the registers that it passes through. */
function declareTiles({ loads, invocations, headDim }: ForwardShape): string {
  return lines(loads, (u) => `
  let load_row_${u} = (local + ${u * invocations}u) / ${headDim / 8}u;
  let load_piece_${u} = (local + ${u * invocations}u) % ${headDim / 8}u;
  var k_${u} = vec4u();
  var v_${u} = vec4u();`);
}

/** Loads the tile from key `next` on; keys past the end repeat the last. */
function load({ loads, headDim }: ForwardShape, name: "k" | "v"): string {
  return lines(loads, (u) => `
      {
        let source = (sequence * params.keys + min(next + load_row_${u}, params.keys - 1u)) * params.kv_heads + kv_head;
        ${name}_${u} = ${name}[params.${name}_at + source * ${headDim / 8}u + load_piece_${u}];
      }`);
}

/** Puts into workgroup memory what was loaded. */
function put({ loads, tileStride, keysAt, valuesAt }: ForwardShape, name: "k" | "v"): string {
  const start = name === "k" ? keysAt : valuesAt;
  return lines(
    loads,
    (u) => storeHalves("tiles", `${start}u + load_row_${u} * ${tileStride}u + load_piece_${u} * 8u`, `${name}_${u}`),
  );
}

/** Stores the scores of the keys from `column` of the tile on. */
function scores(shape: ForwardShape, code: MatrixCode): string {
  const { teamRows, step, headDim, tileStride, scoreStride, keysAt } = shape;
  return `
${eachMatrix(shape, step, (i, j) => `      var score_${i}_${j} = Sum();`)}
${
    lines(headDim / MATRIX_SIZE, (e) =>
      lines(step / MATRIX_SIZE, (j) => {
        const at = `${keysAt + MATRIX_SIZE * e}u + (column + ${MATRIX_SIZE * j}u) * ${tileStride}u`;
        return `
      {
        let keys = ${code.right("tiles", at, tileStride, "col_major")};
${
          lines(
            teamRows / MATRIX_SIZE,
            (i) => `        ${code.multiply(`score_${i}_${j}`, `query_${i}_${e}`, "keys")}`,
          )
        }
      }`;
      }))
  }
${
    eachMatrix(shape, step, (i, j) => {
      const at = `(team_row + ${MATRIX_SIZE * i}u) * ${scoreStride}u + ${MATRIX_SIZE * j}u`;
      return `      ${code.store("scores", at, `score_${i}_${j}`, scoreStride)}`;
    })
  }`;
}

/** Adds the weights of these keys times their values to the sums. */
function accumulate(shape: ForwardShape, code: MatrixCode): string {
  const { teamRows, step, headDim, tileStride, scoreStride, valuesAt } = shape;
  const eachRows = (line: (i: number) => string) => lines(teamRows / MATRIX_SIZE, line);
  return lines(step / MATRIX_SIZE, (c) => `
      {
${
    eachRows((i) => {
      const at = `(team_row + ${MATRIX_SIZE * i}u) * ${scoreStride}u + ${MATRIX_SIZE * c}u`;
      return `        let weights_${i} = ${code.left("tiles", at, scoreStride)};`;
    })
  }
${
    lines(headDim / MATRIX_SIZE, (j) => {
      const at = `${valuesAt + MATRIX_SIZE * j}u + (column + ${MATRIX_SIZE * c}u) * ${tileStride}u`;
      return `        {
          let values = ${code.right("tiles", at, tileStride)};
${eachRows((i) => `          ${code.multiply(`sum_${i}_${j}`, `weights_${i}`, "values")}`)}
        }`;
    })
  }
      }`);
}
