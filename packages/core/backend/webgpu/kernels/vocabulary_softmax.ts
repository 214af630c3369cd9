/**
 * Softmax cross-entropy over a vocabulary of which ranks hold parts, in two kernels with an exchange between them. Dims:
 * T rows, V columns of this part.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { IGNORED_LABEL } from "../../ops.ts";
import { type Dispatcher, linearGrid, residual } from "../dispatch.ts";
import { MAX_LANES, onlineSoftmaxCode } from "./cross_entropy.ts";
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

function logSumExpCode(width: VectorWidth, plan: RowPlan): string {
  const component = width === 4 ? "[label % 4u]" : "";
  return `${onlineSoftmaxCode(width, plan)}
${
    declare(
      [["logits", "read", "V"], ["labels", "read", "u32"], ["out", "read_write", "f32"]],
      ["rows", "columns", "at_logits", "at_labels", "at_out"],
    )
  }${
    rowMain(`
  let base = params.at_logits + row * params.columns;
  var own = vec2f(-1e30, 0.0);
  for (var c = lane; c < select(0u, params.columns, live); c += LANES) { own = add_values(own, logits[base + c]); }
  let merged = merge_lanes(own, local);
  if (live && lane == 0u) {
    let label = labels[params.at_labels + row];
    var hit = 0.0;
    if (label / ${width}u < params.columns) { hit = logits[base + label / ${width}u]${component}; }
    out[params.at_out + 2u * row] = log(merged.y) + merged.x;
    out[params.at_out + 2u * row + 1u] = hit;
  }
`)
  }`;
}

/** Launches `Ops.logSumExp`. */
export function logSumExp(dispatcher: Dispatcher, tensors: { logits: Tensor; labels: Tensor; out: Tensor }): void {
  const columns = tensors.logits.shape[1];
  forRowBlocks(dispatcher, [tensors.logits, tensors.labels, tensors.out], ([logits, labels, out]) => {
    const width = vectorWidth([logits], [columns]);
    const plan = rowPlan(dispatcher, columns / width, MAX_LANES);
    dispatcher.run({
      kernel: "log_sum_exp",
      code: logSumExpCode(width, plan),
      tensors: [
        { tensor: logits, access: "read" },
        { tensor: labels, access: "read" },
        { tensor: out, access: "read_write" },
      ],
      params: [labels.size, columns / width, residual(logits) / width, residual(labels), residual(out)],
      workgroups: linearGrid(Math.ceil(labels.size / plan.rows)),
    });
  });
}

function gradientCode(width: VectorWidth, { lanes, rows }: RowPlan): string {
  const component = width === 4 ? "[label % 4u]" : "";
  return `${vectorCode(width)}
const LANES = ${lanes}u;
const ROWS = ${rows}u;
${
    declare(
      [["logits", "read_write", "V"], ["labels", "read", "u32"], ["log_sum_exp", "read", "f32"]],
      ["rows", "columns", "at_logits", "at_labels", "at_log_sum_exp", "scale: f32"],
    )
  }${
    rowMain(`
  if (!live) { return; }
  let label = labels[params.at_labels + row];
  let base = params.at_logits + row * params.columns;
  let all = log_sum_exp[params.at_log_sum_exp + row];
  for (var c = lane; c < params.columns; c += LANES) {
    var gradient = V(0.0);
    if (label != ${IGNORED_LABEL}u) {
      gradient = exp(logits[base + c] - V(all)) * params.scale;
      if (c == label / ${width}u) { gradient${component} -= params.scale; }
    }
    logits[base + c] = gradient;
  }
`)
  }`;
}

/** Launches `Ops.crossEntropyGradient`. */
export function crossEntropyGradient(
  dispatcher: Dispatcher,
  tensors: { logits: Tensor; labels: Tensor; logSumExp: Tensor },
  scale: number,
): void {
  const columns = tensors.logits.shape[1];
  forRowBlocks(dispatcher, [tensors.logits, tensors.labels, tensors.logSumExp], ([logits, labels, logSumExp]) => {
    const width = vectorWidth([logits], [columns]);
    const plan = rowPlan(dispatcher, columns / width, MAX_LANES);
    dispatcher.run({
      kernel: "cross_entropy_gradient",
      code: gradientCode(width, plan),
      tensors: [
        { tensor: logits, access: "read_write" },
        { tensor: labels, access: "read" },
        { tensor: logSumExp, access: "read" },
      ],
      params: [
        labels.size,
        columns / width,
        residual(logits) / width,
        residual(labels),
        residual(logSumExp),
        { f32: scale },
      ],
      workgroups: linearGrid(Math.ceil(labels.size / plan.rows)),
    });
  });
}
