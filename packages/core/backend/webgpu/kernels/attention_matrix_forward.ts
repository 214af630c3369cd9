/**
 * Forward of attention in f16 on matrix units (Dao 2023, section 3.1). A workgroup owns a tile of queries and walks over
 * the tiles of keys that any of them sees. Each turn has two phases. In the first, teams multiply: the weights of the
 * last tile by its values, added to the output that they keep in matrices, and the queries, kept likewise, by the keys of
 * this tile. As the elements of a matrix cannot be reached where it is kept, scores go to workgroup memory, and in the
 * second phase lanes turn them into weights, while the next tiles are put in place.
 *
 * Rescaling the output would take it through workgroup memory, too. So weights are taken relative to a number near the
 * highest score so far, their `top`, which only moves when a score has risen far above it: they stay well below the
 * largest f16, and how far `top` lies from the highest score cancels in the end.
 *
 * A quad of lanes shares a row of scores, each lane two columns of eight.
 *
 * @module
 */

import { LINEAR_INDEX } from "../dispatch.ts";
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
} from "./attention_wgsl.ts";
import { eachRow, finish, rescale, resumedSums } from "./attention_matrix_output.ts";
import { quadCode, raise, weights } from "./attention_matrix_weights.ts";
import { MATRIX_SIZE, MatrixCode, TEAM } from "./matrix_unit.ts";
import { declare } from "./wgsl.ts";

/** How far a score may rise above `top`: weights are at most 2 to this, and f16 ends at 2^16. */
const MOST_RISE = 12;

/** How far `top` lies below a log-sum-exp that is resumed from: the more keys it is of, the smaller are weights. */
const RESUMED_HEADROOM = 10;

/** WGSL of the forward, with rows bound as vec4u. `resume`: start from what out and lse hold. */
export function matrixForward(
  variant: ForwardVariant,
  layout: AttentionLayout,
  resume: boolean,
): string {
  const shape = forwardShape(variant, layout.headDim);
  const { rows, columns, invocations, columnTeams, scoreStride, laneRows } = shape;
  const code = new MatrixCode(shape.unit);
  const body = `
  let kv_head = head * params.kv_heads / params.heads;
  let first_row = (params.tiles - 1u - index % params.tiles) * ${rows}u;
  let team_row = team / ${columnTeams}u * ${shape.rowMatrices * MATRIX_SIZE}u;
  let team_column = team % ${columnTeams}u;
  let quad_column = lane % 4u;
  let lane_row = team * ${laneRows}u + lane / 4u;
  let place = lane_row * ${scoreStride}u + 2u * quad_column;
  let scale = params.scale * ${LOG2_E};
${ownRows(shape, layout, resume)}
${loadQueries(shape, code)}
${eachOut(shape, (i, j) => `  var sum_${i}_${j} = Sum();`)}
${resume ? resumedSums(shape, code, 2 ** RESUMED_HEADROOM) : ""}
  let begin = ${layout.ranged ? "seen.z" : "0u"};
  let end = seen.x;
${declareTiles(shape)}
  if (begin < end) {
    {
      let next = begin;
      ${load(shape, "k")}
      ${load(shape, "v")}
    }
    workgroupBarrier();
    ${put(shape, "k")}
    let next = begin + ${columns}u;
    ${load(shape, "k")}
    workgroupBarrier();
  }
  for (var key = begin; key < end; key += ${columns}u) {
    if (key != begin) {
${accumulate(shape, code)}
    }
${scores(shape, code)}
    if (local == 0u) { risen = 0u; }
    workgroupBarrier();
    ${put(shape, "v")}
    ${put(shape, "k")}
    if (key + ${columns}u < end) {
      {
        let next = key + ${columns}u;
        ${load(shape, "v")}
      }
      let next = key + ${2 * columns}u;
      ${load(shape, "k")}
    }
    var highest = f32(${MASKED});
${eachRow(shape, (b) => `    var part_${b} = 0.0;`)}
    let masked = key + ${columns}u > seen.y${layout.ranged ? " || key < seen.w" : ""};
    if (masked) {
${weights(shape, layout, true)}
    } else {
${weights(shape, layout, false)}
    }
    if (highest > ${MOST_RISE}.0) { risen = 1u; }
    if (workgroupUniformLoad(&risen) != 0u) {
${raise(shape, layout)}
      if (${resume ? "true" : "key != begin"}) {
${rescale(shape, code)}
      }
      workgroupBarrier();
    }
${eachRow(shape, (b) => `    total_${b} += part_${b};`)}
  }
  if (begin < end) {
${accumulate(shape, code)}
  }
${finish(shape, code)}
`;
  const operands = FORWARD_OPERANDS;
  const elements = { query_heads: "vec4u", key_heads: "vec4u", number: "f32", positions: "u32" };
  return `${code.head}
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
var<workgroup> risen: u32;
${code.functions}
${quadCode(shape)}
@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let index = ${LINEAR_INDEX};
  if (index >= params.workgroups) { return; }
  let head = index / params.tiles % params.heads;
  let sequence = index / (params.tiles * params.heads);
  let lane = local % ${TEAM}u;
  let team = local / ${TEAM}u;
${body}}
`;
}

/** A statement for each matrix of the output that a team keeps. */
function eachOut({ rowMatrices, outMatrices }: ForwardShape, line: (i: number, j: number) => string): string {
  return lines(rowMatrices, (i) => lines(outMatrices, (j) => line(i, j)));
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

/** Stores eight elements, a vec4u, in the tiles. */
function putPiece(at: string, value: string): string {
  return `{
      let to = ${at};
      ${
    lines(4, (i) =>
      `let pair_${i} = halves(${value}.${"xyzw"[i]});
      tiles[to + ${2 * i}u] = pair_${i}.x;
      tiles[to + ${2 * i + 1}u] = pair_${i}.y;`)
  }
    }`;
}

/** Declares `query_i_e`, the matrices of a team's queries, which pass through the memory of the tiles. */
function loadQueries(shape: ForwardShape, code: MatrixCode): string {
  const { rows, headDim, queryColumns, invocations, rowMatrices } = shape;
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
    ${putPiece(`row * ${stride}u + piece * 8u`, "value")}
  }`)
  }
  workgroupBarrier();
${
    lines(rowMatrices, (i) =>
      lines(queryColumns / MATRIX_SIZE, (e) => {
        const at = `(team_row + ${MATRIX_SIZE * i}u) * ${stride}u + ${MATRIX_SIZE * e}u`;
        return `  let query_${i}_${part * queryColumns / MATRIX_SIZE + e} = ${code.left("tiles", at, stride)};`;
      }))
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
    (u) => putPiece(`${start}u + load_row_${u} * ${tileStride}u + load_piece_${u} * 8u`, `${name}_${u}`),
  );
}

/** Stores the scores of the tile in place. */
function scores(shape: ForwardShape, code: MatrixCode): string {
  const { rowMatrices, scoreMatrices, headDim, tileStride, scoreStride, keysAt } = shape;
  const column = (j: number) => `team_column * ${scoreMatrices * MATRIX_SIZE}u + ${MATRIX_SIZE * j}u`;
  const each = (line: (i: number, j: number) => string) =>
    lines(rowMatrices, (i) => lines(scoreMatrices, (j) => line(i, j)));
  return `
${each((i, j) => `    var score_${i}_${j} = Sum();`)}
${
    lines(headDim / MATRIX_SIZE, (e) =>
      lines(scoreMatrices, (j) => `
    {
      let keys = ${
        code.right("tiles", `${keysAt + MATRIX_SIZE * e}u + (${column(j)}) * ${tileStride}u`, tileStride, "col_major")
      };
${lines(rowMatrices, (i) => `      ${code.multiply(`score_${i}_${j}`, `query_${i}_${e}`, "keys")}`)}
    }`))
  }
${
    each((i, j) => {
      const at = `(team_row + ${MATRIX_SIZE * i}u) * ${scoreStride}u + ${column(j)}`;
      return `    ${code.store("scores", at, `score_${i}_${j}`, scoreStride)}`;
    })
  }`;
}

/** Adds weights times values to the sums. */
function accumulate(shape: ForwardShape, code: MatrixCode): string {
  const { rowMatrices, outMatrices, columns, tileStride, scoreStride, valuesAt } = shape;
  return lines(columns / MATRIX_SIZE, (c) => `
    {
${
    lines(rowMatrices, (i) => {
      const at = `(team_row + ${MATRIX_SIZE * i}u) * ${scoreStride}u + ${MATRIX_SIZE * c}u`;
      return `      let weights_${i} = ${code.left("tiles", at, scoreStride)};`;
    })
  }
${
    lines(outMatrices, (j) => {
      const column = `team_column * ${outMatrices * MATRIX_SIZE}u + ${MATRIX_SIZE * j}u`;
      return `      {
        let values = ${code.right("tiles", `${valuesAt + MATRIX_SIZE * c * tileStride}u + ${column}`, tileStride)};
${lines(rowMatrices, (i) => `        ${code.multiply(`sum_${i}_${j}`, `weights_${i}`, "values")}`)}
      }`;
    })
  }
    }`);
}
