/**
 * Softmax cross-entropy whose logits become their own gradient. Dims: T rows, V vocabulary.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { IGNORED_LABEL } from "../../ops.ts";
import { type Dispatcher, linearGrid } from "../dispatch.ts";
import { bindGroups, groupBlock, groupComponents, type GroupWidth, groupWidth, kernelName } from "./groups.ts";
import { forRowBlocks, rowMain, type RowPlan, rowPlan, withPlan } from "./wgsl.ts";

/** Most invocations on one row of logits. */
export const MAX_LANES = 1024;

/**
 * `V_COUNT`, the number of `V`s in a group, and `hit(label)`, the number of the `V` of a row with the logit of a label.
 */
export function labelCode(width: GroupWidth): string {
  const components = groupComponents(width);
  return `const V_COUNT = ${width / components}u;\nfn hit(label: u32) -> u32 { return label / ${components}u; }\n`;
}

/** WGSL of a component of a `V` by a label: nothing where a `V` is a number. */
export function componentOf(width: GroupWidth): string {
  const components = groupComponents(width);
  return components === 1 ? "" : `[label % ${components}u]`;
}

/**
 * `add_values(own, v)`, which takes a load into a pair of the largest value and the sum of exponentials
 * relative to it; and `merge_lanes(own, local)`, the pair of all lanes of a row, called by all of the workgroup.
 */
export function onlineSoftmaxCode(width: GroupWidth, plan: RowPlan): string {
  const largest = { 1: "v", 2: "max(v.x, v.y)", 4: "max(max(v.x, v.y), max(v.z, v.w))" }[groupComponents(width)];
  return `
const LANES = ${plan.lanes}u;
const ROWS = ${plan.rows}u;
fn largest(v: V) -> f32 { return ${largest}; }
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
  const { logits, labels, losses } = tensors;
  forRowBlocks(dispatcher, [logits, labels, losses], (blocks) => run(dispatcher, blocks, scale));
}

/**
 * Online softmax: every lane keeps the largest logit it has seen and the sum of exponentials relative to it, and the
 * lanes are merged pairwise. A lane without columns starts below any logit, with an empty sum. The lane that meets the
 * label writes the loss.
 */
function run(dispatcher: Dispatcher, [logits, labels, losses]: readonly Tensor[], scale: number): void {
  const columns = logits.shape[1];
  const width = groupWidth([logits], [columns]);
  const plan = rowPlan(dispatcher, columns / width, MAX_LANES);
  const component = componentOf(width);
  const bound = bindGroups(width, [{ name: "logits", use: "update", tensor: logits }], [
    { name: "labels", access: "read", element: "u32", tensor: labels },
    { name: "losses", access: "read_write", element: "f32", tensor: losses },
  ], { rows: labels.size, columns: columns / width, scale: { f32: scale } });
  const write = () => {
    const update = bound.named().logits;
    return `${bound.code()}${labelCode(width)}${onlineSoftmaxCode(width, plan)}${
      rowMain(`
  let label = select(${IGNORED_LABEL}u, labels[params.at_labels + row], live);
  let columns = select(0u, params.columns, live);
  let base = row * params.columns;
  let ignored = label == ${IGNORED_LABEL}u;
  var own = vec2f(-1e30, 0.0);
  for (var c = lane; c < select(columns, 0u, ignored); c += LANES) ${
        groupBlock(width, [[{ ...update, use: "read" }, "base + c"]], "own = add_values(own, logits);")
      }
  let merged = merge_lanes(own, local);
  let factor = params.scale / max(merged.y, 1.0);
  if (ignored) {
    for (var c = lane; c < columns; c += LANES) ${groupBlock(width, [[{ ...update, use: "write" }, "base + c"]], "")}
    if (live && lane == 0u) { losses[params.at_losses + row] = 0.0; }
    return;
  }
  for (var c = lane; c < columns; c += LANES) ${
        groupBlock(
          width,
          [[update, "base + c"]],
          `let logit = logits${component};
    logits = exp(logits - V(merged.x)) * factor;
    if (c * V_COUNT + part == hit(label)) {
      losses[params.at_losses + row] = log(merged.y) + (merged.x - logit);
      logits${component} -= params.scale;
    }`,
        )
      }
`)
    }`;
  };
  dispatcher.run({
    kernel: kernelName("cross_entropy", [logits]),
    code: { key: "cross_entropy", form: withPlan(bound.form, plan), write },
    tensors: bound.tensors,
    params: bound.params,
    workgroups: linearGrid(Math.ceil(labels.size / plan.rows)),
  });
}
