/**
 * Forward of attention on GPUs; see `attention_tiles.ts` for its two steps.
 *
 * @module
 */

import { keysOfQuery } from "./attention_bounds.ts";
import {
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
  EMPTY,
  EMPTY_BOUND,
  FORWARD_OPERANDS,
  LN_2,
  LOG2_E,
  operandCode,
} from "./attention_wgsl.ts";

/**
 * WGSL of the forward: workgroups own queries and walk over the keys that any of them sees; tiles that all of them
 * see wholly need no mask. `resume`: start from what out and lse hold.
 *
 * The highest score of a row is found across its invocations in every tile; the sum of its weights is kept in parts
 * and added up at the end.
 */
export function tileForward(variant: TileVariant, layout: AttentionLayout, resume: boolean): string {
  const shape = tileShape(variant, layout.headDim);
  const { rows, xCount, yCount, pieces } = shape;
  const queries: TileRows = {
    name: "q",
    head: "head",
    row: (i) => `sequence * params.queries + min(first_row + ${i}, params.queries - 1u)`,
  };
  const keys = (name: string): TileRows => ({
    name,
    head: "kv_head",
    row: (i) => `sequence * params.keys + min(key + ${i}, params.keys - 1u)`,
  });
  const across = (value: (i: number) => string, combine: (sum: string, next: string) => string) => `
${eachRow(shape, (i) => `  row_parts[(y + ${yCount * i}u) * ${xCount + 1}u + x] = ${value(i)};`)}
  workgroupBarrier();
  if (local < ${rows}u) {
    var combined = row_parts[local * ${xCount + 1}u];
    for (var part = 1u; part < ${xCount}u; part++) {
      let next = row_parts[local * ${xCount + 1}u + part];
      combined = ${combine("combined", "next")};
    }
    row_whole[local] = combined;
  }
  workgroupBarrier();`;
  return operandCode(FORWARD_OPERANDS, layout) + keysOfQuery(layout) + tileMemory(shape, layout) + `
var<workgroup> row_parts: array<f32, ${rows * (xCount + 1)}>;
var<workgroup> row_whole: array<f32, ${rows}>;
` + tileMain(
    shape,
    "heads",
    `
${ownQueries(shape, layout)}${
      eachRow(shape, (i) => `
  ${
        resume
          ? `var top_${i} = lse[lse_index(row_${i}, head)] * ${LOG2_E};
  var total_${i} = select(0.0, 1.0, x == 0u);`
          : `var top_${i} = f32(${EMPTY});
  var total_${i} = 0.0;`
      }`)
    }
${
      eachSum(shape, (i, u) =>
        resume
          ? `  var sum_${i}_${u} = load_out(row_${i}, head, min(x + ${xCount * u}u, ${pieces - 1}u));`
          : `  var sum_${i}_${u} = vec4f(0.0);`)
    }
${eachKeyTile(shape, layout)}
${tileProduct(shape, "score", queries, keys("k"))}
${eachScore(shape, (i, j) => `    score_${i}_${j} *= params.scale * ${LOG2_E};`)}
${maskKeys(shape, layout)}${
      across(
        (i) => `max(max(score_${i}_0, score_${i}_1), max(score_${i}_2, score_${i}_3))`,
        (a, b) => `max(${a}, ${b})`,
      )
    }
${
      eachRow(shape, (i) => `
    let highest_${i} = max(top_${i}, row_whole[y + ${yCount * i}u]);
    let rescale_${i} = exp2(top_${i} - highest_${i});
    top_${i} = highest_${i};`)
    }
${eachScore(shape, (i, j) => `    score_${i}_${j} = exp2(score_${i}_${j} - highest_${i});`)}
${
      eachRow(shape, (i) =>
        `    total_${i} = total_${i} * rescale_${i} + ((score_${i}_0 + score_${i}_1) + (score_${i}_2 + score_${i}_3));`)
    }
${eachSum(shape, (i, u) => `    sum_${i}_${u} *= rescale_${i};`)}
${storeWeights(shape, "score")}
${tileAccumulate(shape, "sum", keys("v"))}
  }
${across((i) => `total_${i}`, (a, b) => `${a} + ${b}`)}
${
      eachRow(shape, (i) => `
  let empty_${i} = top_${i} < ${EMPTY_BOUND};
  let whole_${i} = select(row_whole[y + ${yCount * i}u], 1.0, empty_${i});
  let factor_${i} = select(1.0 / whole_${i}, 0.0, empty_${i});
  if (place_${i} < params.queries && x == 0u) {
    lse[lse_index(row_${i}, head)] = select((top_${i} + log2(whole_${i})) * ${LN_2}, ${EMPTY}, empty_${i});
  }`)
    }
${
      eachSum(shape, (i, u) => `
  if (place_${i} < params.queries && x + ${xCount * u}u < ${pieces}u) {
    store_out(row_${i}, head, x + ${xCount * u}u, sum_${i}_${u} * factor_${i});
  }`)
    }
`,
  );
}
