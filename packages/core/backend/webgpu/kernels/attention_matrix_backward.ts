/**
 * Backward of attention in f16 on matrix units (Dao 2023, section 3.1, with a kernel for either side, so that every sum
 * has one owner). Each team owns a few rows: their operands of the scores, and what it sums up, are matrices that it
 * keeps. The rows of the other side pass through workgroup memory tile by tile. As the elements of a matrix cannot be
 * reached where it is kept, scores and their gradients go through workgroup memory, too: products store them, lanes turn
 * them into weights, and products load these. Nothing there is shared with other teams.
 *
 * Where keys are owned: scores = k · qᵀ, dWeights = v · dOutᵀ, dv += weights · dOut, dk += dScores · q.
 * Where queries are owned: scores = q · kᵀ, dWeights = dOut · vᵀ, dq += dScores · k.
 *
 * @module
 */

import { keysOfQuery, queriesOfKey, type RangeLayout } from "./attention_bounds.ts";
import { arraysOf, fourScores, memoryCode, placesCode, storeWeights, teamBarrier } from "./attention_matrix_memory.ts";
import {
  type MatrixKernel,
  type MatrixShape,
  matrixShape,
  type MatrixVariant,
  suits,
} from "./attention_matrix_variant.ts";
import { addedRows, loadOwnRows, type OwnRows, type StreamedRows, streamRows } from "./attention_matrix_rows.ts";
import { ALL_TERMS, ATTENTION_PARAMS, backwardOperands, lines, LOG2_E, matrixMain } from "./attention_wgsl.ts";
import { MATRIX_SIZE, MatrixCode, TEAM } from "./matrix_unit.ts";
import { declare } from "./wgsl.ts";

/** WGSL of dq. */
export function matrixQueryGradient(variant: MatrixVariant, headDim: number, layout: RangeLayout): string {
  const shape = matrixShape(variant, "attention_dq", headDim);
  return kernelCode(shape, "attention_dq", layout, {
    own: { names: ["q", "d_out"], count: "params.queries", heads: "params.heads" },
    streamed: { names: ["k", "v"], count: "params.keys", heads: "params.kv_heads", head: "kv_head" },
    sums: [{ name: "dq", weights: 0, tile: 0, factor: " * params.scale" }],
    bounds: [
      layout.ranged ? "first_key(sequence, first_row)" : "0u",
      layout.ranged ? "first_key(sequence, last)" : "0u",
      "visible_keys(sequence, first_row)",
      "visible_keys(sequence, last)",
    ],
    passes: { prepare: "let kv_head = head * params.kv_heads / params.heads;", count: "1u", next: "" },
  });
}

/** WGSL of dk and dv, summed over the query heads of the group. */
export function matrixKeyGradient(variant: MatrixVariant, headDim: number, layout: RangeLayout): string {
  const shape = matrixShape(variant, "attention_dkv", headDim);
  return kernelCode(shape, "attention_dkv", layout, {
    own: { names: ["k", "v"], count: "params.keys", heads: "params.kv_heads" },
    streamed: { names: ["q", "d_out"], count: "params.queries", heads: "params.heads", head: "query_head" },
    sums: [
      { name: "dv", weights: 1, tile: 1, factor: "" },
      { name: "dk", weights: 0, tile: 0, factor: " * params.scale" },
    ],
    bounds: [
      "first_query(sequence, first_row)",
      "first_query(sequence, last)",
      layout.ranged ? "end_query(sequence, first_row)" : "params.queries",
      layout.ranged ? "end_query(sequence, last)" : "params.queries",
    ],
    passes: {
      prepare: "let group = params.heads / params.kv_heads;",
      count: "group",
      next: "let query_head = head * group + next / tiles_met;",
    },
  });
}

/** What the two kernels differ in. */
interface KernelSides {
  readonly own: OwnRows;
  readonly streamed: StreamedRows;
  /** What is summed up: weights (1) or their gradients (0) times a tile, and the factor on what is added in the end. */
  readonly sums: readonly {
    readonly name: string;
    readonly weights: 0 | 1;
    readonly tile: 0 | 1;
    readonly factor: string;
  }[];
  /** Rows of the other side that the first and the last own row meet: first of both, then ends of both. */
  readonly bounds: readonly [string, string, string, string];
  /** How often the walk passes all tiles; what is declared before it, and where tile number `next` of it is loaded. */
  readonly passes: { readonly prepare: string; readonly count: string; readonly next: string };
}

function kernelCode(shape: MatrixShape, kernel: MatrixKernel, layout: RangeLayout, sides: KernelSides): string {
  const { unit, views, teams, tile, owned, invocations, headDim } = shape;
  if (!suits(shape)) {
    throw new RangeError(
      `Cannot run ${kernel} with head dim ${headDim} by ${shape.rows} rows a team, ${teams} teams, tiles of ${tile} and ` +
        `steps of ${shape.step}: rows must be shared out evenly`,
    );
  }
  const ofKeys = kernel === "attention_dkv";
  const code = new MatrixCode(unit);
  const operands = backwardOperands(ofKeys ? "keys" : "queries", ALL_TERMS);
  const { own, sums, bounds, passes } = sides;
  const streamed = streamRows(shape, sides.streamed, ofKeys);
  const load = `${passes.next}
    let next_start = begin + next % tiles_met * ${tile}u;
    ${streamed.load}`;
  const body = `
  let first_row = ${ofKeys ? "index % params.tiles" : "(params.tiles - 1u - index % params.tiles)"} * ${owned}u;
  if (local == 0u) {
    let last = min(first_row + ${owned - 1}u, ${own.count} - 1u);
    bounds = vec4u(${bounds.join(", ")});
  }
  let met = workgroupUniformLoad(&bounds);
  ${placesCode(shape)}
  let exponent_scale = params.scale * ${LOG2_E};
  ${passes.prepare}
${loadOwnRows(shape, code, own)}
${ofKeys ? "" : ownNumbers(shape)}
${sums.map(({ name }) => eachMatrix(shape, headDim, (i, e) => `  var ${name}_${i}_${e} = Sum();`)).join("\n")}
${streamed.declare}
  let begin = met.x / ${tile}u * ${tile}u;
  let tiles_met = (max(met.w, begin) - begin + ${tile - 1}u) / ${tile}u;
  let turns = tiles_met * ${passes.count};
  if (turns > 0u) {
    let next = 0u;
    ${load}
  }
  for (var turn = 0u; turn < turns; turn++) {
    let start = begin + turn % tiles_met * ${tile}u;
    let is_whole = start >= met.y && start + ${tile}u <= met.z;
    workgroupBarrier();
    ${streamed.store}
    workgroupBarrier();
    let next = turn + 1u;
    if (next < turns) {
      ${load}
    }
    for (var column = 0u; column < ${tile}u; column += ${shape.step}u) {
${scores(shape, code, 0)}
      ${teamBarrier(shape)}
${fourOfEachRow(shape, "score")}
      ${teamBarrier(shape)}
${scores(shape, code, 1)}
      ${teamBarrier(shape)}
${fourOfEachRow(shape, "d_weight")}
${weights(shape, kernel)}
      ${teamBarrier(shape)}
${sums.map(({ name, weights, tile }) => accumulate(shape, code, name, weights, tile)).join("\n")}
      ${teamBarrier(shape)}
    }
  }
  workgroupBarrier();
${sums.map(({ name, factor }) => addedRows(shape, code, own, name, factor)).join("\n")}
`;
  return `${views ? "requires buffer_view;\n" : ""}${code.head}
${
    declare(
      operands.map(({ name, holds, access }) =>
        [name, access, holds === "positions" ? "u32" : holds === "number" ? "f32" : "vec4u"] as const
      ),
      [...ATTENTION_PARAMS, ...operands.map(({ name }) => `${name}_at`)],
    )
  }${ofKeys ? queriesOfKey(layout) : keysOfQuery(layout)}${seesCode(layout)}
${memoryCode(shape)}${ofKeys ? `var<workgroup> numbers: array<vec2f, ${tile}>;` : ""}
var<workgroup> bounds: vec4u;
${code.functions}${matrixMain(invocations, own.heads, body)}`;
}

/** `sees(sequence, query, key)`: whether both exist and the query sees the key. */
function seesCode({ ranged }: RangeLayout): string {
  return `
fn sees(sequence: u32, query: u32, key: u32) -> bool {
  if (query >= params.queries || key >= params.keys) { return false; }
  let position = key_positions[params.key_positions_at + key];
  ${
    ranged
      ? `let row = params.query_positions_at + 2u * (sequence * params.queries + query);
  return query_positions[row] <= position && position <= query_positions[row + 1u];`
      : "return position <= query_positions[params.query_positions_at + query];"
  }
}
`;
}

/** A line for each matrix of own rows and columns. */
function eachMatrix({ rows }: MatrixShape, columns: number, line: (i: number, j: number) => string): string {
  return lines(rows / MATRIX_SIZE, (i) => lines(columns / MATRIX_SIZE, (j) => line(i, j)));
}

/** Stores own operand `which` times the tile of the same number, transposed, as scores or as gradients of weights. */
function scores(shape: MatrixShape, code: MatrixCode, which: 0 | 1): string {
  const { rows, tile, step, headDim, tileStride, scoreStride } = shape;
  const product = (i: number, j: number) => `product${which}_${i}_${j}`;
  return `${eachMatrix(shape, step, (i, j) => `      var ${product(i, j)} = Sum();`)}
${
    lines(headDim / MATRIX_SIZE, (k) =>
      lines(step / MATRIX_SIZE, (j) => {
        const at = `${which * tile * tileStride + MATRIX_SIZE * k}u + (column + ${MATRIX_SIZE * j}u) * ${tileStride}u`;
        return `      {
        let other = ${code.right(arraysOf(shape).tiles, at, tileStride, "col_major")};
        ${lines(rows / MATRIX_SIZE, (i) => code.multiply(product(i, j), `own${which}_${i}_${k}`, "other"))}
      }`;
      }))
  }
${
    eachMatrix(shape, step, (i, j) => {
      const at = MATRIX_SIZE * (i * scoreStride + j);
      return `      ${code.store(arraysOf(shape).scores, `scores_at + ${at}u`, product(i, j), scoreStride)}`;
    })
  }`;
}

/** Passes in which the lanes of a team take four scores each, and the row and the column that a lane takes. */
function passesOf({ rows, step }: MatrixShape): { count: number; row: (pass: number) => string; column: string } {
  const lanesPerRow = step / 4;
  return {
    count: rows * lanesPerRow / TEAM,
    row: (pass) => `(${pass * TEAM / lanesPerRow}u + lane / ${lanesPerRow}u)`,
    column: `lane % ${lanesPerRow}u * 4u`,
  };
}

/** Log-sum-exp and delta of the own queries whose scores a lane takes. */
function ownNumbers(shape: MatrixShape): string {
  const { count, row } = passesOf(shape);
  return lines(count, (pass) => `
  let query_${pass} = min(first_row + team * ${shape.rows}u + ${row(pass)}, params.queries - 1u);
  let number_${pass} = (sequence * params.queries + query_${pass}) * params.heads + head;
  let lse_${pass} = lse[params.lse_at + number_${pass}] * ${LOG2_E};
  let delta_${pass} = delta[params.delta_at + number_${pass}];`);
}

/** Declares `name_<pass>`, the four scores, or gradients of weights in their place, that a lane takes in each pass. */
function fourOfEachRow(shape: MatrixShape, name: "score" | "d_weight"): string {
  const { count, row, column } = passesOf(shape);
  return lines(count, (pass) => {
    const place = `scores_at + ${row(pass)} * ${shape.scoreStride}u + ${column}`;
    return `      let ${name}_${pass} = ${fourScores(shape, place)};`;
  });
}

/**
 * Turns scores and gradients of weights into gradients of scores and, where keys are owned, weights. All have been read
 * before any is written, as they may share memory.
 */
function weights(shape: MatrixShape, kernel: MatrixKernel): string {
  const { rows, scoreStride } = shape;
  const ofKeys = kernel === "attention_dkv";
  const passes = passesOf(shape);
  const numbers = ofKeys ? [0, 1, 2, 3].map((i) => `numbers[column + ${passes.column} + ${i}u]`) : [];
  const sees = (pass: number, i: number) => {
    const own = `first_row + team * ${rows}u + ${passes.row(pass)}`;
    const other = `start + column + ${passes.column} + ${i}u`;
    return `sees(sequence, ${ofKeys ? `${other}, ${own}` : `${own}, ${other}`})`;
  };
  const second = `${rows * scoreStride}u`;
  return `${
    ofKeys
      ? `      let lse_4 = vec4f(${numbers.map((number) => `${number}.x`).join(", ")});
      let delta_4 = vec4f(${numbers.map((number) => `${number}.y`).join(", ")});`
      : ""
  }
${
    lines(passes.count, (pass) => `
      let place_${pass} = ${passes.row(pass)} * ${scoreStride}u + ${passes.column};
      var weight_${pass} = exp2(score_${pass} * exponent_scale - ${ofKeys ? "lse_4" : `lse_${pass}`});`)
  }
      if (!is_whole) {
${
    lines(passes.count, (pass) => {
      const seen = [0, 1, 2, 3].map((i) => sees(pass, i)).join(", ");
      return `        weight_${pass} = select(vec4f(0.0), weight_${pass}, vec4<bool>(${seen}));`;
    })
  }
      }
${
    lines(passes.count, (pass) => `
      let d_score_${pass} = weight_${pass} * (d_weight_${pass} - ${ofKeys ? "delta_4" : `delta_${pass}`});
      ${storeWeights(shape, `weights_at + place_${pass}`, `d_score_${pass}`)}
      ${ofKeys ? storeWeights(shape, `weights_at + ${second} + place_${pass}`, `weight_${pass}`) : ""}`)
  }`;
}

/** Adds weights (1) or gradients of scores (0) times a tile to the sums `<name>_i_e`. */
function accumulate(shape: MatrixShape, code: MatrixCode, name: string, which: 0 | 1, from: 0 | 1): string {
  const { rows, tile, step, headDim, tileStride, scoreStride } = shape;
  return `      {
${
    eachMatrix(shape, step, (i, j) => {
      const at = which * rows * scoreStride + MATRIX_SIZE * (i * scoreStride + j);
      return `        let weights_${i}_${j} = ${
        code.left(arraysOf(shape).weights, `weights_at + ${at}u`, scoreStride)
      };`;
    })
  }
${
    lines(headDim / MATRIX_SIZE, (e) =>
      lines(step / MATRIX_SIZE, (j) => {
        const at = `${from * tile * tileStride + MATRIX_SIZE * e}u + (column + ${MATRIX_SIZE * j}u) * ${tileStride}u`;
        return `        {
          let other = ${code.right(arraysOf(shape).tiles, at, tileStride)};
          ${lines(rows / MATRIX_SIZE, (i) => code.multiply(`${name}_${i}_${e}`, `weights_${i}_${j}`, "other"))}
        }`;
      }))
  }
      }`;
}
