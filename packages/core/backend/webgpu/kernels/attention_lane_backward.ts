/**
 * Backward of attention for drivers that compute on the CPU; see `attention_lanes.ts`. Probabilities are recomputed
 * from the log-sum-exp. Dims: E head dim, V = ⌈E/4⌉ pieces of a row.
 *
 * @module
 */

import { isMet, keysOfQuery, ownRun, queriesOfKey, streamedRun } from "./attention_bounds.ts";
import { laneMain, laneStream, lastOwn, ownRows } from "./attention_lanes.ts";
import type { LaneVariant } from "./attention_variant.ts";
import {
  addDot,
  ALL_TERMS,
  type AttentionLayout,
  backwardOperands,
  lines,
  LOG2_E,
  MASKED,
  operandCode,
  piecesOf,
  UNREACHED,
} from "./attention_wgsl.ts";

/** WGSL of dq: lanes own queries, keys stream. */
export function laneQueryGradient(variant: LaneVariant, layout: AttentionLayout): string {
  const { rows, block } = variant;
  const pieces = piecesOf(layout.headDim);
  const stream = laneStream(variant, pieces);
  const run = streamedRun(layout, "queries", "first_row", lastOwn(variant, "params.queries"));
  return operandCode(backwardOperands("queries", ALL_TERMS), layout) + keysOfQuery(layout) + laneMain(
    variant,
    "heads",
    `
  let kv_head = head * params.kv_heads / params.heads;
${ownRows(variant, "(params.tiles - 1u - index % params.tiles)", "params.queries")}
${
      lines(rows, (r) => `
  ${ownRun(layout, "queries", r)}
  let lse_${r} = lse[lse_index(row_${r}, head)] * ${LOG2_E};
  let delta_${r} = delta[delta_index(row_${r}, head)];
${
        lines(pieces, (e) => `
  let q_${r}_${e} = load_q(row_${r}, head, ${e}u) * (params.scale * ${LOG2_E});
  let d_out_${r}_${e} = load_d_out(row_${r}, head, ${e}u);
  var dq_${r}_${e} = vec4f(0.0);`)
      }`)
    }
${stream.prepare}
  let end = ${run.end};
  for (var key = ${run.begin}; key < end; key += ${block}u) {
${stream.begin("key", "sequence * params.keys", "params.keys - 1u")}
${stream.load("k", "kv_head")}
${stream.load("v", "kv_head")}
${
      lines(block, (j) => `
${lines(rows, (r) => `    var score_${r}_${j} = 0.0; var d_weight_${r}_${j} = 0.0;`)}
${
        lines(pieces, (e) => `
    let k_${j}_${e} = ${stream.at("k", "kv_head", j, e)};
    let v_${j}_${e} = ${stream.at("v", "kv_head", j, e)};
${
          lines(rows, (r) => `
    ${addDot(`score_${r}_${j}`, `q_${r}_${e}`, `k_${j}_${e}`)}
    ${addDot(`d_weight_${r}_${j}`, `d_out_${r}_${e}`, `v_${j}_${e}`)}`)
        }`)
      }
${
        lines(rows, (r) => `
    let weight_${r}_${j} = exp2(select(${MASKED}, score_${r}_${j} - lse_${r}, ${
          isMet(layout, "queries", `key + ${j}u`, r)
        }));
    let d_score_${r}_${j} = weight_${r}_${j} * (d_weight_${r}_${j} - delta_${r});`)
      }`)
    }
${lines(pieces, (e) => lines(block, (j) => lines(rows, (r) => `    dq_${r}_${e} += d_score_${r}_${j} * k_${j}_${e};`)))}
  }
${
      lines(rows, (r) => `
  if (place_${r} < params.queries) {
${lines(pieces, (e) => `    add_dq(row_${r}, head, ${e}u, dq_${r}_${e} * params.scale);`)}
  }`)
    }
`,
  );
}

/**
 * WGSL of dk and dv: lanes own keys, the queries of all heads of the group stream. A query past the end gets a
 * log-sum-exp so high that its weight is zero.
 */
export function laneKeyGradient(variant: LaneVariant, layout: AttentionLayout): string {
  const { rows, block, shuffle } = variant;
  const pieces = piecesOf(layout.headDim);
  const stream = laneStream(variant, pieces);
  const run = streamedRun(layout, "keys", "first_row", lastOwn(variant, "params.keys"));
  const number = (name: string, place: string) => {
    const row = `sequence * params.queries + min(${place}, params.queries - 1u)`;
    return `${name}[${name}_index(${row}, query_head)]`;
  };
  const logSumExp = (place: string) =>
    `select(${UNREACHED}, ${number("lse", place)} * ${LOG2_E}, ${place} < params.queries)`;
  const numbers = shuffle
    ? `
      let lane_lse = ${logSumExp("(query + lane)")};
      let lane_delta = ${number("delta", "(query + lane)")};
${
      lines(block, (j) => `
      let lse_${j} = subgroupShuffle(lane_lse, ${j}u);
      let delta_${j} = subgroupShuffle(lane_delta, ${j}u);`)
    }`
    : lines(block, (j) => `
      let lse_${j} = ${logSumExp(`(query + ${j}u)`)};
      let delta_${j} = ${number("delta", `(query + ${j}u)`)};`);
  return operandCode(backwardOperands("keys", ALL_TERMS), layout) + queriesOfKey(layout) + laneMain(
    variant,
    "kv_heads",
    `
${ownRows(variant, "(index % params.tiles)", "params.keys")}
${
      lines(rows, (r) => `
  ${ownRun(layout, "keys", r)}
${
        lines(pieces, (e) => `
  let k_${r}_${e} = load_k(row_${r}, head, ${e}u) * (params.scale * ${LOG2_E});
  let v_${r}_${e} = load_v(row_${r}, head, ${e}u);
  var dk_${r}_${e} = vec4f(0.0);
  var dv_${r}_${e} = vec4f(0.0);`)
      }`)
    }
${stream.prepare}
  let start = ${run.begin};
  let end = ${run.end};
  let group = params.heads / params.kv_heads;
  for (var query_head = head * group; query_head < (head + 1u) * group; query_head++) {
    for (var query = start; query < end; query += ${block}u) {
${stream.begin("query", "sequence * params.queries", "params.queries - 1u")}
${stream.load("q", "query_head")}
${stream.load("d_out", "query_head")}
${numbers}
${
      lines(block, (j) => `
${lines(rows, (r) => `      var score_${r}_${j} = 0.0; var d_weight_${r}_${j} = 0.0;`)}
${
        lines(pieces, (e) => `
      let q_${j}_${e} = ${stream.at("q", "query_head", j, e)};
      let d_out_${j}_${e} = ${stream.at("d_out", "query_head", j, e)};
${
          lines(rows, (r) => `
      ${addDot(`score_${r}_${j}`, `k_${r}_${e}`, `q_${j}_${e}`)}
      ${addDot(`d_weight_${r}_${j}`, `v_${r}_${e}`, `d_out_${j}_${e}`)}`)
        }`)
      }
${
        lines(rows, (r) => `
      let weight_${r}_${j} = exp2(select(${MASKED}, score_${r}_${j} - lse_${j}, ${
          isMet(layout, "keys", `query + ${j}u`, r)
        }));
      let d_score_${r}_${j} = weight_${r}_${j} * (d_weight_${r}_${j} - delta_${j});`)
      }`)
    }
${
      lines(pieces, (e) =>
        lines(block, (j) =>
          lines(rows, (r) => `
      dk_${r}_${e} += d_score_${r}_${j} * q_${j}_${e};
      dv_${r}_${e} += weight_${r}_${j} * d_out_${j}_${e};`)))
    }
    }
  }
${
      lines(rows, (r) => `
  if (place_${r} < params.keys) {
${
        lines(pieces, (e) => `
    add_dk(row_${r}, head, ${e}u, dk_${r}_${e} * params.scale);
    add_dv(row_${r}, head, ${e}u, dv_${r}_${e});`)
      }
  }`)
    }
`,
  );
}
