/**
 * RMSNorm, with the residual connection before it where there is one. Dims: T rows, D model width.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type Dispatcher, linearGrid } from "../dispatch.ts";
import { bindGroups, type BoundGroups, groupBlock, groupWidth, kernelName } from "./groups.ts";
import { forRowBlocks, reduceCode, rowMain, rowPlan, withPlan } from "./wgsl.ts";

/** Tensors of {@linkcode rmsNorm}. */
export interface RmsNormTensors {
  readonly x: Tensor;
  readonly weight: Tensor;
  readonly out: Tensor;
  readonly rstd: Tensor;
  /** Added to x first. */
  readonly add?: Tensor;
}

/** Launches `Ops.rmsNorm`. */
export function rmsNorm(dispatcher: Dispatcher, tensors: RmsNormTensors, epsilon: number): void {
  const { weight, add } = tensors;
  const rows = [tensors.x, tensors.out, tensors.rstd, ...add ? [add] : []];
  forRowBlocks(
    dispatcher,
    rows,
    ([x, out, rstd, addBlock]) => run(dispatcher, { x, weight, out, rstd, add: addBlock }, epsilon),
  );
}

/** x is summed and stored before it is squared, so that the norm is that of what is stored. */
function run(dispatcher: Dispatcher, { x, weight, out, rstd, add }: RmsNormTensors, epsilon: number): void {
  const columns = weight.size;
  const numbers = [x, weight, out, ...add ? [add] : []];
  const width = groupWidth(numbers, [columns]);
  const plan = rowPlan(dispatcher, columns / width);
  const groups: BoundGroups[] = [
    { name: "x", use: add ? "update" : "read", tensor: x },
    { name: "weight", use: "read", tensor: weight },
    { name: "out", use: "write", tensor: out },
    ...add ? [{ name: "add", use: "read", tensor: add } as const] : [],
  ];
  const bound = bindGroups(width, groups, [{ name: "rstd", access: "read_write", element: "f32", tensor: rstd }], {
    rows: rstd.size,
    columns: columns / width,
    inverse_width: { f32: 1 / columns },
    epsilon: { f32: epsilon },
  });
  const write = () => {
    const named = bound.named();
    const summed = { ...named.x, use: "read" } as const;
    const sum = () => groupBlock(width, [[named.x, "base + c"], [named.add, "base + c"]], "x += add;");
    return `${bound.code()}${reduceCode(plan)}${
      rowMain(`
  let columns = select(0u, params.columns, live);
  let base = row * params.columns;
  ${add ? `for (var c = lane; c < columns; c += LANES) ${sum()}` : ""}
  var squares = 0.0;
  for (var c = lane; c < columns; c += LANES) ${groupBlock(width, [[summed, "base + c"]], "squares += total(x * x);")}
  let scale = 1.0 / sqrt(reduce(squares, local) * params.inverse_width + params.epsilon);
  for (var c = lane; c < columns; c += LANES) ${
        groupBlock(
          width,
          [[summed, "base + c"], [named.weight, "c"], [named.out, "base + c"]],
          "out = x * scale * weight;",
        )
      }
  if (live && lane == 0u) { rstd[params.at_rstd + row] = scale; }
`)
    }`;
  };
  dispatcher.run({
    kernel: kernelName(add ? "add, rms_norm" : "rms_norm", numbers),
    code: { key: "rms_norm", form: withPlan(bound.form, plan), write },
    tensors: bound.tensors,
    params: bound.params,
    workgroups: linearGrid(Math.ceil(rstd.size / plan.rows)),
  });
}
