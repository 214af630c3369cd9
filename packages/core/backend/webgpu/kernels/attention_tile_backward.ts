/**
 * Backward of attention on GPUs; see `attention_tiles.ts` for its two steps. Probabilities are recomputed from the
 * log-sum-exp.
 *
 * @module
 */

import { isMet, keysOfQuery, ownRun, queriesOfKey } from "./attention_bounds.ts";
import {
  boundsOf,
  eachKeyTile,
  eachRow,
  eachScore,
  eachSum,
  maskKeys,
  ownQueries,
  storeWeights,
  tileAccumulate,
  tileMain,
  tileMemory,
  tileProduct,
  type TileRows,
} from "./attention_tiles.ts";
import { tileShape, type TileVariant } from "./attention_variant.ts";
import {
  type AttentionLayout,
  backwardOperands,
  type BackwardTerms,
  LOG2_E,
  MASKED,
  operandCode,
  UNREACHED,
} from "./attention_wgsl.ts";

const QUERY_ROWS = (start: string) => (i: string) =>
  `sequence * params.queries + min(${start} + ${i}, params.queries - 1u)`;
const KEY_ROWS = (start: string) => (i: string) => `sequence * params.keys + min(${start} + ${i}, params.keys - 1u)`;

/** WGSL of dq: workgroups own queries and walk over keys as the forward does. */
export function tileQueryGradient(variant: TileVariant, layout: AttentionLayout, terms: BackwardTerms): string {
  const shape = tileShape(variant, layout.headDim);
  const { xCount, pieces } = shape;
  const queries = (name: string): TileRows => ({ name, head: "head", row: QUERY_ROWS("first_row") });
  const keys = (name: string): TileRows => ({ name, head: "kv_head", row: KEY_ROWS("key") });
  return operandCode(backwardOperands("queries", terms), layout) + keysOfQuery(layout) + tileMemory(shape, layout) +
    tileMain(
      shape,
      "heads",
      `
${ownQueries(shape, layout)}${
        eachRow(shape, (i) => `
  let lse_${i} = lse[lse_index(row_${i}, head)] * ${LOG2_E};
  ${terms.delta ? `let delta_${i} = delta[delta_index(row_${i}, head)];` : ""}`)
      }
${eachSum(shape, (i, u) => `  var dq_${i}_${u} = vec4f(0.0);`)}
${eachKeyTile(shape, layout)}
${tileProduct(shape, "score", queries("q"), keys("k"))}
${eachScore(shape, (i, j) => `    score_${i}_${j} = score_${i}_${j} * (params.scale * ${LOG2_E}) - lse_${i};`)}
${maskKeys(shape, layout)}${terms.dWeight ? tileProduct(shape, "d_weight", queries("d_out"), keys("v")) : ""}
${
        eachScore(shape, (i, j) =>
          `    score_${i}_${j} = exp2(score_${i}_${j}) * ${dScore(terms, `d_weight_${i}_${j}`, `delta_${i}`)};`)
      }
${storeWeights(shape, "score")}
${tileAccumulate(shape, "dq", keys("k"))}
  }
${
        eachSum(shape, (i, u) => `
  if (place_${i} < params.queries && x + ${xCount * u}u < ${pieces}u) {
    add_dq(row_${i}, head, x + ${xCount * u}u, dq_${i}_${u} * params.scale);
  }`)
      }
`,
    );
}

/**
 * WGSL of dk and dv: workgroups own keys and walk over the queries of all heads of the group that see one of the keys;
 * tiles of queries that all see all of the keys need no mask. A query past the end gets a log-sum-exp
 * so high that its weight is zero.
 */
export function tileKeyGradient(variant: TileVariant, layout: AttentionLayout, terms: BackwardTerms): string {
  const shape = tileShape(variant, layout.headDim);
  const { rows, columns, xCount, yCount, pieces } = shape;
  const keys = (name: string): TileRows => ({ name, head: "head", row: KEY_ROWS("first_row") });
  const queries = (name: string): TileRows => ({ name, head: "query_head", row: QUERY_ROWS("query") });
  const dk = terms.dWeight || terms.delta;
  const numbers = `
    if (local < ${columns}u) {
      let row = ${queries("q").row("local")};
      let known = query + local < params.queries;
      column_numbers[local] = vec2f(
        select(${UNREACHED}, lse[lse_index(row, query_head)] * ${LOG2_E}, known),
        ${terms.delta ? "delta[delta_index(row, query_head)]" : "0.0"},
      );
    }`;
  return operandCode(backwardOperands("keys", terms), layout) + queriesOfKey(layout) + tileMemory(shape, layout) + `
var<workgroup> column_numbers: array<vec2f, ${columns}>;
` + tileMain(
    shape,
    "kv_heads",
    `
  let first_row = index % params.tiles * ${rows}u;
  if (local == 0u) {
    let last = min(first_row + ${rows - 1}u, params.keys - 1u);
    bounds = ${
      boundsOf(layout, ["first_query", "first_row"], ["first_query", "last"], ["end_query", "last"], [
        "end_query",
        "first_row",
      ])
    };
  }
  let seen = workgroupUniformLoad(&bounds);
${
      eachRow(shape, (i) => `
  let place_${i} = first_row + y + ${yCount * i}u;
  let own_${i} = min(place_${i}, params.keys - 1u);
  let row_${i} = sequence * params.keys + own_${i};
  ${ownRun(layout, "keys", i)}`)
    }
${
      eachSum(shape, (i, u) =>
        `${dk ? `  var dk_${i}_${u} = vec4f(0.0);` : ""}${terms.value ? `  var dv_${i}_${u} = vec4f(0.0);` : ""}`)
    }
  let group = params.heads / params.kv_heads;
  for (var query_head = head * group; query_head < (head + 1u) * group; query_head++) {
    for (var query = seen.x / ${columns}u * ${columns}u; query < ${
      layout.ranged ? "seen.z" : "params.queries"
    }; query += ${columns}u) {
${numbers}
${tileProduct(shape, "score", keys("k"), queries("q"))}
${
      eachScore(shape, (i, j) =>
        `      score_${i}_${j} = score_${i}_${j} * (params.scale * ${LOG2_E}) - column_numbers[x * 4u + ${j}u].x;`)
    }
      if (query < seen.y${layout.ranged ? ` || query + ${columns}u > seen.w` : ""}) {
${
      eachScore(shape, (i, j) =>
        `        score_${i}_${j} = select(${MASKED}, score_${i}_${j}, ${
          isMet(layout, "keys", `query + x * 4u + ${j}u`, i)
        });`)
    }
      }
${eachScore(shape, (i, j) => `      score_${i}_${j} = exp2(score_${i}_${j});`)}
${terms.value ? storeWeights(shape, "score") + tileAccumulate(shape, "dv", queries("d_out")) : ""}
${terms.dWeight ? tileProduct(shape, "d_weight", keys("v"), queries("d_out")) : ""}
${
      dk
        ? `
${
          eachScore(shape, (i, j) =>
            `      score_${i}_${j} *= ${dScore(terms, `d_weight_${i}_${j}`, `column_numbers[x * 4u + ${j}u].y`)};`)
        }
${storeWeights(shape, "score")}
${tileAccumulate(shape, "dk", queries("q"))}`
        : ""
    }
    }
  }
${
      eachSum(shape, (i, u) => `
  if (place_${i} < params.keys && x + ${xCount * u}u < ${pieces}u) {
    ${dk ? `add_dk(row_${i}, head, x + ${xCount * u}u, dk_${i}_${u} * params.scale);` : ""}
    ${terms.value ? `add_dv(row_${i}, head, x + ${xCount * u}u, dv_${i}_${u});` : ""}
  }`)
    }
`,
  );
}

/** Gradient of a score over its weight. */
function dScore({ dWeight, delta }: BackwardTerms, dWeightCode: string, deltaCode: string): string {
  return dWeight ? delta ? `(${dWeightCode} - ${deltaCode})` : dWeightCode : `-${deltaCode}`;
}
