/**
 * delta = Σ out · dOut of each row and head, which the backward of attention subtracts. Dims: T rows, H heads, E head
 * dim.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type Dispatcher, linearGrid, residual } from "../dispatch.ts";
import {
  declare,
  forRowBlocks,
  reduceCode,
  rowMain,
  type RowPlan,
  rowPlan,
  vectorCode,
  type VectorWidth,
  vectorWidth,
} from "./wgsl.ts";

function code(width: VectorWidth, plan: RowPlan): string {
  return `${vectorCode(width)}${reduceCode(plan)}
${
    declare(
      [["out", "read", "V"], ["d_out", "read", "V"], ["delta", "read_write", "f32"]],
      ["rows", "columns", "at_out", "at_d_out", "at_delta"],
    )
  }${
    rowMain(`
  let columns = select(0u, params.columns, live);
  let at_out = params.at_out + row * params.columns;
  let at_d_out = params.at_d_out + row * params.columns;
  var products = 0.0;
  for (var c = lane; c < columns; c += LANES) { products += total(out[at_out + c] * d_out[at_d_out + c]); }
  let sum = reduce(products, local);
  if (live && lane == 0u) { delta[params.at_delta + row] = sum; }
`)
  }`;
}

/** Launches `Ops.attentionDelta`; a head of a row is a row of the kernel. */
export function attentionDelta(
  dispatcher: Dispatcher,
  tensors: { out: Tensor; dOut: Tensor; delta: Tensor },
  heads: number,
): void {
  const headDim = tensors.out.shape[1] / heads;
  forRowBlocks(dispatcher, [tensors.out, tensors.dOut, tensors.delta], ([out, dOut, delta]) => {
    const width = vectorWidth([out, dOut], [headDim]);
    const plan = rowPlan(dispatcher, headDim / width);
    dispatcher.run({
      kernel: "attention_delta",
      code: code(width, plan),
      tensors: [
        { tensor: out, access: "read" },
        { tensor: dOut, access: "read" },
        { tensor: delta, access: "read_write" },
      ],
      params: [
        delta.size,
        headDim / width,
        residual(out) / width,
        residual(dOut) / width,
        residual(delta),
      ],
      workgroups: linearGrid(Math.ceil(delta.size / plan.rows)),
    });
  });
}
