/**
 * What attention on GPUs is made of: a workgroup owns a tile of rows of one head and walks over the rows of the other
 * side, tile by tile. Two steps do the work. {@linkcode tileProduct} multiplies two tiles of rows into a tile of
 * scores, staged in workgroup memory some pieces at a time; {@linkcode tileAccumulate} adds scores times rows to what
 * every invocation keeps in registers. Dims: E head dim, V = ⌈E/4⌉ pieces of a row.
 *
 * Invocation (x, y) holds the scores of rows y + yCount · i and columns 4x to 4x + 3, and the sums of the same rows
 * and of pieces x + xCount · u. Rows in workgroup memory are an odd number of pieces wide, so that neighbours meet
 * different banks. Arrays there have two dims, since an index that is not constant costs a comparison with the bound:
 * rows are found once, and what is read within them has constant places.
 *
 * @module
 */

import { isMet, ownRun, type RangeLayout } from "./attention_bounds.ts";
import type { TileShape, TileVariant } from "./attention_variant.ts";
import { addDot, attentionMain, lines, MASKED, range } from "./attention_wgsl.ts";

/** A tile of rows: where they come from. */
export interface TileRows {
  /** Name of the operand. */
  readonly name: string;
  /** Head, an expression. */
  readonly head: string;
  /** Row of the tensor that holds row `i` (an expression) of the tile. */
  row(i: string): string;
}

/** Workgroup memory of the two steps. */
export function tileMemory(
  { stageRows, stageWidth, rows, weightWidth }: TileShape,
  { ranged }: RangeLayout,
): string {
  return `
var<workgroup> stage: array<array<vec4f, ${stageWidth}>, ${stageRows}>;
var<workgroup> weights: array<array<vec4f, ${weightWidth}>, ${rows}>;
var<workgroup> bounds: ${ranged ? "vec4u" : "vec2u"};
`;
}

/** Entry point: finds the workgroup's sequence, head and tile, and the invocation's `x` and `y`. */
export function tileMain({ invocations, xCount }: TileShape, heads: "heads" | "kv_heads", body: string): string {
  return attentionMain(
    invocations,
    `params.${heads}`,
    `  let x = local % ${xCount}u;
  let y = local / ${xCount}u;
${body}`,
  );
}

/**
 * The queries of a workgroup that owns a tile of them, the last tiles first, as these have the most keys: how many keys
 * its last and its first query see and, with ranges, the first keys of its first and its last query (`seen`), and of each
 * row that the invocation holds its place, the row of the tensor, and which keys it sees. Rows past the end repeat the
 * last.
 */
export function ownQueries(shape: TileShape, layout: RangeLayout): string {
  const { rows, yCount } = shape;
  return `  let kv_head = head * params.kv_heads / params.heads;
  let first_row = (params.tiles - 1u - index % params.tiles) * ${rows}u;
  if (local == 0u) {
    let last = min(first_row + ${rows - 1}u, params.queries - 1u);
    bounds = ${
    boundsOf(layout, ["visible_keys", "last"], ["visible_keys", "first_row"], ["first_key", "first_row"], [
      "first_key",
      "last",
    ])
  };
  }
  let seen = workgroupUniformLoad(&bounds);
${
    eachRow(shape, (i) => `
  let place_${i} = first_row + y + ${yCount * i}u;
  let own_${i} = min(place_${i}, params.queries - 1u);
  let row_${i} = sequence * params.queries + own_${i};
  ${ownRun(layout, "queries", i)}
`)
  }`;
}

/**
 * `bounds` of a tile of own rows, each a function of bounds and the row it is of: the first two always, the others where
 * there are ranges.
 */
export function boundsOf({ ranged }: RangeLayout, ...bounds: (readonly [name: string, row: string])[]): string {
  const calls = bounds.slice(0, ranged ? 4 : 2).map(([name, row]) => `${name}(sequence, ${row})`);
  return `vec${calls.length}u(${calls.join(", ")})`;
}

/** The loop over the keys that any query of {@linkcode ownQueries} sees, up to its body. */
export function eachKeyTile({ columns }: TileShape, { ranged }: RangeLayout): string {
  return `  for (var key = ${ranged ? "seen.z" : "0u"}; key < seen.x; key += ${columns}u) {`;
}

/** Masks the scores of keys that a row of {@linkcode ownQueries} does not see, in tiles that not all rows see whole. */
export function maskKeys(shape: TileShape, layout: RangeLayout): string {
  return `    if (key + ${shape.columns}u > seen.y${layout.ranged ? " || key < seen.w" : ""}) {
${
    eachScore(shape, (i, j) =>
      `      score_${i}_${j} = select(${MASKED}, score_${i}_${j}, ${
        isMet(layout, "queries", `key + x * 4u + ${j}u`, i)
      });`)
  }
    }
`;
}

/** A statement for each row that an invocation holds. */
export function eachRow({ rowsPerInvocation }: TileVariant, line: (i: number) => string): string {
  return lines(rowsPerInvocation, line);
}

/** A statement for each score that an invocation holds. */
export function eachScore(variant: TileVariant, line: (i: number, j: number) => string): string {
  return eachRow(variant, (i) => lines(4, (j) => line(i, j)));
}

/** A statement for each piece of the sums that an invocation holds. */
export function eachSum(shape: TileShape, line: (i: number, u: number) => string): string {
  return eachRow(shape, (i) => lines(shape.sums, (u) => line(i, u)));
}

/** Declares `<out>_i_j` = a row i · b row j, over a tile of rows and a tile of columns. */
export function tileProduct(shape: TileShape, out: string, a: TileRows, b: TileRows): string {
  const { rows, columns, pieces, xCount, yCount } = shape;
  const chunk = Math.min(shape.chunk, pieces);
  const isRagged = pieces % chunk !== 0;
  const stage = (from: TileRows, count: number, stageRow: string) => {
    const piece = isRagged ? `min(chunk + place, ${pieces - 1}u)` : "chunk + place";
    const loaded = `load_${from.name}(${from.row("i")}, ${from.head}, ${piece})`;
    return copyPieces(
      shape,
      count * chunk,
      `
      let i = at / ${chunk}u;
      let place = at % ${chunk}u;
      stage[${stageRow}][place] = ${isRagged ? `select(vec4f(0.0), ${loaded}, chunk + place < ${pieces}u)` : loaded};`,
    );
  };
  return `
${eachScore(shape, (i, j) => `  var ${out}_${i}_${j} = 0.0;`)}
  for (var chunk = 0u; chunk < ${pieces}u; chunk += ${chunk}u) {
    workgroupBarrier();
    ${stage(a, rows, "i")}
    ${stage(b, columns, `${rows}u + i % 4u * ${xCount}u + i / 4u`)}
    workgroupBarrier();
${
    lines(chunk, (place) => `
    {
${eachRow(shape, (i) => `      let a_${i} = stage[y + ${yCount * i}u][${place}];`)}
${lines(4, (j) => `      let b_${j} = stage[x + ${rows + j * xCount}u][${place}];`)}
${eachScore(shape, (i, j) => addDot(`${out}_${i}_${j}`, `a_${i}`, `b_${j}`))}
    }`)
  }
  }
`;
}

/**
 * Puts `<name>_i_0` to `<name>_i_3` where {@linkcode tileAccumulate} reads them. The barriers of a
 * {@linkcode tileProduct} must lie between what read the weights before and this.
 */
export function storeWeights(shape: TileShape, name: string): string {
  return eachRow(shape, (i) => {
    const weights = range(4).map((j) => `${name}_${i}_${j}`).join(", ");
    return `  weights[y + ${shape.yCount * i}u][x] = vec4f(${weights});`;
  });
}

/**
 * Adds weights · rows of `from` to the sums `<into>_i_u`. A row of the stage holds one piece of as many columns as a
 * chunk has pieces; first come all pieces of the first columns, then all of the next.
 */
export function tileAccumulate(shape: TileShape, into: string, from: TileRows): string {
  const { columns, chunk, staged, pieces, xCount, yCount, sums } = shape;
  const piecesWide = xCount * sums;
  return `
  for (var part = 0u; part < ${columns}u; part += ${staged}u) {
    workgroupBarrier();
    ${
    copyPieces(
      shape,
      staged * pieces,
      `
      let i = at / ${pieces}u;
      let piece = at % ${pieces}u;
      let loaded = load_${from.name}(${from.row("(part + i)")}, ${from.head}, piece);
      stage[i / ${chunk}u * ${piecesWide}u + piece][i % ${chunk}u] = loaded;`,
    )
  }
    workgroupBarrier();
    for (var row = 0u; row < ${staged / chunk}u; row++) {
${
    lines(chunk / 4, (four) => `
${
      eachRow(
        shape,
        (i) =>
          `      let w_${i}_${four} = weights[y + ${yCount * i}u][(part / ${chunk}u + row) * ${
            chunk / 4
          }u + ${four}u];`,
      )
    }
${
      lines(4, (j) => `
      {
${lines(sums, (u) => `        let b_${u} = stage[row * ${piecesWide}u + x + ${xCount * u}u][${four * 4 + j}];`)}
${eachSum(shape, (i, u) => `        ${into}_${i}_${u} += w_${i}_${four}.${"xyzw"[j]} * b_${u};`)}
      }`)
    }`)
  }
    }
  }
`;
}

/** Runs a body with `at` from 0 to count − 1, shared out over the invocations. */
function copyPieces({ invocations }: TileShape, count: number, body: string): string {
  return lines(Math.ceil(count / invocations), (turn) => {
    const guard = (turn + 1) * invocations > count ? `if (local < ${count - turn * invocations}u) ` : "";
    return `${guard}{
      let at = local + ${turn * invocations}u;${body}
    }`;
  });
}
