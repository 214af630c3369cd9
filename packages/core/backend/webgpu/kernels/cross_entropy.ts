/**
 * Softmax cross-entropy whose logits become their own gradient. Dims: T rows, V vocabulary.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { IGNORED_LABEL } from "../../ops.ts";
import { type Dispatcher, linearGrid, residual } from "../dispatch.ts";
import {
  declare,
  forRowBlocks,
  rowMain,
  type RowPlan,
  rowPlan,
  vectorCode,
  type VectorWidth,
  vectorWidth,
} from "./wgsl.ts";

/** Most invocations on one row of logits. */
export const MAX_LANES = 1024;

/**
 * Online softmax: every lane keeps the largest logit it has seen and the sum of exponentials relative to it, and the
 * lanes are merged pairwise. A lane without columns starts below any logit, with an empty sum. The lane that meets the
 * label writes the loss.
 */
function code(width: VectorWidth, plan: RowPlan): string {
  const component = width === 4 ? "[label % 4u]" : "";
  return `${onlineSoftmaxCode(width, plan)}
${
    declare(
      [["logits", "read_write", "V"], ["labels", "read", "u32"], ["losses", "read_write", "f32"]],
      ["rows", "columns", "at_logits", "at_labels", "at_losses", "scale: f32"],
    )
  }${
    rowMain(`
  let label = select(${IGNORED_LABEL}u, labels[params.at_labels + row], live);
  let columns = select(0u, params.columns, live);
  let base = params.at_logits + row * params.columns;
  let ignored = label == ${IGNORED_LABEL}u;
  var own = vec2f(-1e30, 0.0);
  for (var c = lane; c < select(columns, 0u, ignored); c += LANES) {
    own = add_values(own, logits[base + c]);
  }
  let merged = merge_lanes(own, local);
  let factor = params.scale / max(merged.y, 1.0);
  let hit = label / ${width}u;
  for (var c = lane; c < columns; c += LANES) {
    var gradient = V(0.0);
    if (!ignored) {
      let v = logits[base + c];
      gradient = exp(v - V(merged.x)) * factor;
      if (c == hit) {
        losses[params.at_losses + row] = log(merged.y) + (merged.x - v${component});
        gradient${component} -= params.scale;
      }
    }
    logits[base + c] = gradient;
  }
  if (ignored && live && lane == 0u) { losses[params.at_losses + row] = 0.0; }
`)
  }`;
}

/**
 * `V` and `total(v)`; `add_values(own, v)`, which takes a load into a pair of the largest value and the sum of exponentials
 * relative to it; and `merge_lanes(own, local)`, the pair of all lanes of a row, called by all of the workgroup.
 */
export function onlineSoftmaxCode(width: VectorWidth, plan: RowPlan): string {
  return `${vectorCode(width)}
const LANES = ${plan.lanes}u;
const ROWS = ${plan.rows}u;
fn largest(v: V) -> f32 { return ${width === 4 ? "max(max(v.x, v.y), max(v.z, v.w))" : "v"}; }
fn add_values(own: vec2f, v: V) -> vec2f {
  let top = max(own.x, largest(v));
  return vec2f(top, own.y * exp(own.x - top) + total(exp(v - V(top))));
}
fn merge(a: vec2f, b: vec2f) -> vec2f {
  let top = max(a.x, b.x);
  return vec2f(top, a.y * exp(a.x - top) + b.y * exp(b.x - top));
}
${plan.lanes === 1 ? "fn merge_lanes(own: vec2f, local: u32) -> vec2f { return own; }" : mergeLanesCode(plan)}
`;
}

function mergeLanesCode({ lanes, rows }: RowPlan): string {
  return `
var<workgroup> lane_values: array<vec2f, ${lanes * rows}>;
fn merge_lanes(own: vec2f, local: u32) -> vec2f {
  lane_values[local] = own;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (local % LANES < half) { lane_values[local] = merge(lane_values[local], lane_values[local + half]); }
  }
  workgroupBarrier();
  return lane_values[local - local % LANES];
}`;
}

/** Launches `Ops.crossEntropy`. */
export function crossEntropy(
  dispatcher: Dispatcher,
  tensors: { logits: Tensor; labels: Tensor; losses: Tensor },
  scale: number,
): void {
  const columns = tensors.logits.shape[1];
  forRowBlocks(dispatcher, [tensors.logits, tensors.labels, tensors.losses], ([logits, labels, losses]) => {
    const width = vectorWidth([logits], [columns]);
    const plan = rowPlan(dispatcher, columns / width, MAX_LANES);
    dispatcher.run({
      kernel: "cross_entropy",
      code: code(width, plan),
      tensors: [
        { tensor: logits, access: "read_write" },
        { tensor: labels, access: "read" },
        { tensor: losses, access: "read_write" },
      ],
      params: [
        labels.size,
        columns / width,
        residual(logits) / width,
        residual(labels),
        residual(losses),
        { f32: scale },
      ],
      workgroups: linearGrid(Math.ceil(labels.size / plan.rows)),
    });
  });
}
