/**
 * delta = Σ out · dOut of each row and head, which the backward of attention subtracts. Dims: T rows, H heads, E head
 * dim.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type Dispatcher, linearGrid, residual } from "../dispatch.ts";
import {
  accessCode,
  groupBinding,
  groupBlock,
  groupCode,
  groupStart,
  type GroupTensor,
  type GroupWidth,
  groupWidth,
  kernelName,
  withTensor,
} from "./groups.ts";
import { declare, forRowBlocks, reduceCode, rowMain, type RowPlan, rowPlan, withPlan } from "./wgsl.ts";

function code(tensors: readonly GroupTensor[], width: GroupWidth, plan: RowPlan): string {
  const bindings = tensors.map((tensor) => groupBinding(tensor, width));
  return `${groupCode(width)}${reduceCode(plan)}
${
    declare(
      [...bindings, ["delta", "read_write", "f32"]],
      ["rows", "groups", ...tensors.map(({ name }) => `at_${name}`), "at_delta"],
    )
  }${accessCode(tensors, width)}${
    rowMain(`
  let count = select(0u, params.groups, live);
  var products = 0.0;
  for (var c = lane; c < count; c += LANES) {
    ${
      groupBlock(width, tensors.map((tensor) => [tensor, "row * params.groups + c"]), "products += total(out * d_out);")
    }
  }
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
    const width = groupWidth([out, dOut], [headDim]);
    const plan = rowPlan(dispatcher, headDim / width);
    dispatcher.run({
      kernel: kernelName("attention_delta", [out, dOut]),
      code: {
        key: "attention_delta",
        form: withPlan(withTensor(withTensor(width, "read", out.dtype), "read", dOut.dtype), plan),
        write: () =>
          code(
            [{ name: "out", dtype: out.dtype, use: "read" }, { name: "d_out", dtype: dOut.dtype, use: "read" }],
            width,
            plan,
          ),
      },
      tensors: [
        { tensor: out, access: "read" },
        { tensor: dOut, access: "read" },
        { tensor: delta, access: "read_write" },
      ],
      params: [
        delta.size,
        headDim / width,
        groupStart(out, width),
        groupStart(dOut, width),
        residual(delta),
      ],
      workgroups: linearGrid(Math.ceil(delta.size / plan.rows)),
    });
  });
}
