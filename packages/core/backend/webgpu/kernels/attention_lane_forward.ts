/**
 * Forward of attention for drivers that compute on the CPU; see `attention_lanes.ts`.
 *
 * @module
 */

import { isMet, keysOfQuery, ownRun, streamedRun } from "./attention_bounds.ts";
import { laneMain, laneStream, lastOwn, ownRows } from "./attention_lanes.ts";
import type { LaneVariant } from "./attention_variant.ts";
import {
  addDot,
  type AttentionLayout,
  EMPTY,
  EMPTY_BOUND,
  FORWARD_OPERANDS,
  lines,
  LN_2,
  LOG2_E,
  MASKED,
  operandCode,
  piecesOf,
  range,
} from "./attention_wgsl.ts";

/** WGSL of the forward: lanes own queries, keys stream. `resume`: start from what out and lse hold. */
export function laneForward(variant: LaneVariant, layout: AttentionLayout, resume: boolean): string {
  const { rows, block } = variant;
  const pieces = piecesOf(layout.headDim);
  const stream = laneStream(variant, pieces);
  const run = streamedRun(layout, "queries", "first_row", lastOwn(variant, "params.queries"));
  const start = (r: number) =>
    resume
      ? `
  var top_${r} = lse[lse_index(row_${r}, head)] * ${LOG2_E};
  var total_${r} = 1.0;
${lines(pieces, (e) => `  var sum_${r}_${e} = load_out(row_${r}, head, ${e}u);`)}`
      : `
  var top_${r} = f32(${EMPTY});
  var total_${r} = 0.0;
${lines(pieces, (e) => `  var sum_${r}_${e} = vec4f(0.0);`)}`;
  return operandCode(FORWARD_OPERANDS, layout) + keysOfQuery(layout) + laneMain(
    variant,
    "heads",
    `
  let kv_head = head * params.kv_heads / params.heads;
${ownRows(variant, "(params.tiles - 1u - index % params.tiles)", "params.queries")}
${
      lines(rows, (r) => `
  ${ownRun(layout, "queries", r)}
${lines(pieces, (e) => `  let q_${r}_${e} = load_q(row_${r}, head, ${e}u) * (params.scale * ${LOG2_E});`)}
${start(r)}`)
    }
${stream.prepare}
  let end = ${run.end};
  for (var key = ${run.begin}; key < end; key += ${block}u) {
${stream.begin("key", "sequence * params.keys", "params.keys - 1u")}
${stream.load("k", "kv_head")}
${
      lines(block, (j) => `
${lines(rows, (r) => `    var score_${r}_${j} = 0.0;`)}
${
        lines(pieces, (e) => `
    let k_${j}_${e} = ${stream.at("k", "kv_head", j, e)};
${lines(rows, (r) => addDot(`score_${r}_${j}`, `q_${r}_${e}`, `k_${j}_${e}`))}`)
      }
${
        lines(
          rows,
          (r) => `score_${r}_${j} = select(${MASKED}, score_${r}_${j}, ${isMet(layout, "queries", `key + ${j}u`, r)});`,
        )
      }`)
    }
${
      lines(rows, (r) => `
    let highest_${r} = ${range(block).reduce((top, j) => `max(${top}, score_${r}_${j})`, `top_${r}`)};
    let rescale_${r} = exp2(top_${r} - highest_${r});
    top_${r} = highest_${r};
${lines(block, (j) => `    let weight_${r}_${j} = exp2(score_${r}_${j} - highest_${r});`)}
    total_${r} = total_${r} * rescale_${r} + ${range(block).map((j) => `weight_${r}_${j}`).join(" + ")};`)
    }
${stream.load("v", "kv_head")}
${
      lines(pieces, (e) => `
${lines(rows, (r) => `    sum_${r}_${e} *= rescale_${r};`)}
${
        lines(block, (j) => `
    let v_${j}_${e} = ${stream.at("v", "kv_head", j, e)};
${lines(rows, (r) => `    sum_${r}_${e} += weight_${r}_${j} * v_${j}_${e};`)}`)
      }`)
    }
  }
${
      lines(rows, (r) => `
  if (place_${r} < params.queries) {
    let empty = top_${r} < ${EMPTY_BOUND};
    let total = select(total_${r}, 1.0, empty);
    let factor = select(1.0 / total, 0.0, empty);
${lines(pieces, (e) => `    store_out(row_${r}, head, ${e}u, sum_${r}_${e} * factor);`)}
    lse[lse_index(row_${r}, head)] = select((top_${r} + log2(total)) * ${LN_2}, ${EMPTY}, empty);
  }`)
    }
`,
  );
}
