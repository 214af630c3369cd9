/**
 * How rows of heads get into matrices and out of them in the backward of attention; see `attention_matrix_backward.ts`.
 * Rows past the end are zeros.
 *
 * @module
 */

import { arraysOf, fourScores, storePiece } from "./attention_matrix_memory.ts";
import type { MatrixShape } from "./attention_matrix_variant.ts";
import { lines, LOG2_E, UNREACHED } from "./attention_wgsl.ts";
import { MATRIX_SIZE, type MatrixCode, TEAM } from "./matrix_unit.ts";

/** Rows that the workgroups own: the operands of scores and of gradients of weights, their number, and their heads. */
export interface OwnRows {
  readonly names: readonly [string, string];
  readonly count: string;
  readonly heads: string;
}

/** Rows of the other side, and the head that they are of. */
export interface StreamedRows extends OwnRows {
  readonly head: string;
}

/** Index of a piece of eight elements; `row` is one of the sequence. */
function pieceAt({ headDim }: MatrixShape, name: string, { count, heads }: OwnRows, head: string, row: string): string {
  return `params.${name}_at + ((sequence * ${count} + ${row}) * ${heads} + ${head}) * ${headDim / 8}u + piece`;
}

/**
 * Declares `own0_i_k` and `own1_i_k`, the matrices of a team's own rows, which pass through the memory of the tiles, those
 * of some teams after those of others where they do not fit at once.
 */
export function loadOwnRows(shape: MatrixShape, code: MatrixCode, own: OwnRows): string {
  const { rows, owned, headDim, tile } = shape;
  const passing = Math.min(owned, 2 * tile);
  const each = (line: (i: number, k: number) => string) =>
    lines(rows / MATRIX_SIZE, (i) => lines(headDim / MATRIX_SIZE, (k) => line(i, k)));
  return own.names.map((name, which) =>
    `${each((i, k) => `  var own${which}_${i}_${k} = Left();`)}
  for (var part = 0u; part < ${Math.ceil(owned / passing)}u; part++) {
    workgroupBarrier();
${passOwnRows(shape, own, name, passing)}
    workgroupBarrier();
    if (team / ${passing / rows}u == part) {
${
      each((i, k) => {
        const row = `(team % ${passing / rows}u * ${rows}u + ${MATRIX_SIZE * i}u)`;
        const at = `${row} * ${shape.tileStride}u + ${MATRIX_SIZE * k}u`;
        return `      own${which}_${i}_${k} = ${code.left(arraysOf(shape).tiles, at, shape.tileStride)};`;
      })
    }
    }
  }`
  ).join("\n");
}

/** Stores own rows in the tiles, those of number `part` of as many rows. */
function passOwnRows(shape: MatrixShape, own: OwnRows, name: string, count: number): string {
  const { headDim, invocations, tileStride } = shape;
  const pieces = headDim / 8;
  return `  for (var at = local; at < ${count * pieces}u; at += ${invocations}u) {
    let row = first_row + part * ${count}u + at / ${pieces}u;
    let piece = at % ${pieces}u;
    let loaded = ${name}[${pieceAt(shape, name, own, "head", `min(row, ${own.count} - 1u)`)}];
    let value = select(vec4u(), loaded, row < ${own.count});${
    storePiece(shape, `at / ${pieces}u * ${tileStride}u + piece * 8u`, "value")
  }
  }`;
}

/** Statements that bring tiles into workgroup memory. */
export interface TileStream {
  /** Declares the registers that a tile passes through. */
  readonly declare: string;
  /** Loads the tiles from row `next_start` on. */
  readonly load: string;
  /** Puts into workgroup memory what was loaded. */
  readonly store: string;
}

/** The stream of both tiles and, with `numbers`, of log-sum-exp and delta of the queries in them. */
export function streamRows(shape: MatrixShape, streamed: StreamedRows, numbers: boolean): TileStream {
  const { tile, headDim, invocations, tileStride } = shape;
  const { names, count, head } = streamed;
  const pieces = headDim / 8;
  const loads = tile * pieces / invocations;
  const each = (line: (name: string, which: number, u: number) => string) =>
    lines(loads, (u) => names.map((name, which) => line(name, which, u)).join("\n"));
  const row = (u: number) => `(local + ${u * invocations}u) / ${pieces}u`;
  return {
    declare: `  let piece = local % ${pieces}u;
${each((_, which, u) => `  var piece${which}_${u} = vec4u();`)}
${numbers ? `  var number = vec2f(0.0);` : ""}`,
    load: `${
      lines(loads, (u) => `
      let row_${u} = next_start + ${row(u)};`)
    }
${
      each((name, which, u) => {
        const at = pieceAt(shape, name, streamed, head, `min(row_${u}, ${count} - 1u)`);
        return `      piece${which}_${u} = select(vec4u(), ${name}[${at}], row_${u} < ${count});`;
      })
    }
${
      numbers
        ? `      if (local < ${tile}u) {
        let query = next_start + local;
        let at = (sequence * params.queries + min(query, params.queries - 1u)) * params.heads + ${head};
        let known = vec2f(lse[params.lse_at + at] * ${LOG2_E}, delta[params.delta_at + at]);
        number = select(vec2f(${UNREACHED}, 0.0), known, query < params.queries);
      }`
        : ""
    }`,
    store: `${
      each((_, which, u) =>
        storePiece(
          shape,
          `${which * tile * tileStride}u + ${row(u)} * ${tileStride}u + piece * 8u`,
          `piece${which}_${u}`,
        )
      )
    }
${numbers ? `    if (local < ${tile}u) { numbers[local] = number; }` : ""}`,
  };
}

/** Adds the sums `<name>_i_e`, times a factor, to the rows of tensor `name`. */
export function addedRows(shape: MatrixShape, code: MatrixCode, own: OwnRows, name: string, factor: string): string {
  const { rows, step, headDim, scoreStride } = shape;
  const perRow = step / 8;
  return lines(headDim / step, (part) => `
${
    lines(rows / MATRIX_SIZE, (i) =>
      lines(step / MATRIX_SIZE, (j) => {
        const at = `scores_at + ${MATRIX_SIZE * (i * scoreStride + j)}u`;
        return `  ${
          code.store(arraysOf(shape).scores, at, `${name}_${i}_${part * step / MATRIX_SIZE + j}`, scoreStride)
        }`;
      }))
  }
  workgroupBarrier();
  for (var at = lane; at < ${rows * perRow}u; at += ${TEAM}u) {
    let row = first_row + team * ${rows}u + at / ${perRow}u;
    let piece = ${part * perRow}u + at % ${perRow}u;
    if (row < ${own.count}) {
      let sums = scores_at + at / ${perRow}u * ${scoreStride}u + at % ${perRow}u * 8u;
      let to = ${pieceAt(shape, name, own, "head", "row")};
      var words = ${name}[to];
      let low = ${fourScores(shape, "sums")}${factor};
      let high = ${fourScores(shape, "sums + 4u")}${factor};
      words.x = pack2x16float(unpack2x16float(words.x) + low.xy);
      words.y = pack2x16float(unpack2x16float(words.y) + low.zw);
      words.z = pack2x16float(unpack2x16float(words.z) + high.xy);
      words.w = pack2x16float(unpack2x16float(words.w) + high.zw);
      ${name}[to] = words;
    }
  }
  workgroupBarrier();`);
}
