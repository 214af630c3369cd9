/**
 * Softmax cross-entropy over a vocabulary of which ranks hold parts, in two kernels with an exchange between them. Dims:
 * T rows, V columns of this part.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { IGNORED_LABEL } from "../../ops.ts";
import { type Dispatcher, linearGrid } from "../dispatch.ts";
import { componentOf, labelCode, MAX_LANES, onlineSoftmaxCode } from "./cross_entropy.ts";
import { bindGroups, groupBlock, groupWidth, kernelName } from "./groups.ts";
import { forRowBlocks, rowMain, rowPlan, withPlan } from "./wgsl.ts";

/** Launches `Ops.logSumExp`. */
export function logSumExp(dispatcher: Dispatcher, tensors: { logits: Tensor; labels: Tensor; out: Tensor }): void {
  const columns = tensors.logits.shape[1];
  forRowBlocks(dispatcher, [tensors.logits, tensors.labels, tensors.out], ([logits, labels, out]) => {
    const width = groupWidth([logits], [columns]);
    const plan = rowPlan(dispatcher, columns / width, MAX_LANES);
    const bound = bindGroups(width, [{ name: "logits", use: "read", tensor: logits }], [
      { name: "labels", access: "read", element: "u32", tensor: labels },
      { name: "out", access: "read_write", element: "f32", tensor: out },
    ], { rows: labels.size, columns: columns / width });
    const chosen = `if (part == hit(label) % V_COUNT) { at_label = logits${componentOf(width)}; }`;
    const write = () => {
      const { logits } = bound.named();
      return `${bound.code()}${labelCode(width)}${onlineSoftmaxCode(width, plan)}${
        rowMain(`
  let base = row * params.columns;
  var own = vec2f(-1e30, 0.0);
  for (var c = lane; c < select(0u, params.columns, live); c += LANES) ${
          groupBlock(width, [[logits, "base + c"]], "own = add_values(own, logits);")
        }
  let merged = merge_lanes(own, local);
  if (live && lane == 0u) {
    let label = labels[params.at_labels + row];
    let group = hit(label) / V_COUNT;
    var at_label = 0.0;
    if (group < params.columns) ${groupBlock(width, [[logits, "base + group"]], chosen)}
    out[params.at_out + 2u * row] = log(merged.y) + merged.x;
    out[params.at_out + 2u * row + 1u] = at_label;
  }
`)
      }`;
    };
    dispatcher.run({
      kernel: kernelName("log_sum_exp", [logits]),
      code: { key: "log_sum_exp", form: withPlan(bound.form, plan), write },
      tensors: bound.tensors,
      params: bound.params,
      workgroups: linearGrid(Math.ceil(labels.size / plan.rows)),
    });
  });
}

/** Launches `Ops.crossEntropyGradient`. */
export function crossEntropyGradient(
  dispatcher: Dispatcher,
  tensors: { logits: Tensor; labels: Tensor; logSumExp: Tensor },
  scale: number,
): void {
  const columns = tensors.logits.shape[1];
  forRowBlocks(dispatcher, [tensors.logits, tensors.labels, tensors.logSumExp], ([logits, labels, logSumExp]) => {
    const width = groupWidth([logits], [columns]);
    const plan = rowPlan(dispatcher, columns / width, MAX_LANES);
    const bound = bindGroups(width, [{ name: "logits", use: "update", tensor: logits }], [
      { name: "labels", access: "read", element: "u32", tensor: labels },
      { name: "log_sum_exp", access: "read", element: "f32", tensor: logSumExp },
    ], { rows: labels.size, columns: columns / width, scale: { f32: scale } });
    const gradient = `
    if (label == ${IGNORED_LABEL}u) { logits = V(0.0); } else { logits = exp(logits - V(all)) * params.scale; }
    if (c * V_COUNT + part == hit(label)) { logits${componentOf(width)} -= params.scale; }`;
    const write = () =>
      `${bound.code()}${labelCode(width)}
const LANES = ${plan.lanes}u;
const ROWS = ${plan.rows}u;
${
        rowMain(`
  if (!live) { return; }
  let label = labels[params.at_labels + row];
  let base = row * params.columns;
  let all = log_sum_exp[params.at_log_sum_exp + row];
  for (var c = lane; c < params.columns; c += LANES) ${
          groupBlock(width, [[bound.named().logits, "base + c"]], gradient)
        }
`)
      }`;
    dispatcher.run({
      kernel: kernelName("cross_entropy_gradient", [logits]),
      code: { key: "cross_entropy_gradient", form: withPlan(bound.form, plan), write },
      tensors: bound.tensors,
      params: bound.params,
      workgroups: linearGrid(Math.ceil(labels.size / plan.rows)),
    });
  });
}
