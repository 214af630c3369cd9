/**
 * Backward of RMSNorm. Dims: T rows, D model width.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type Dispatcher, linearGrid } from "../dispatch.ts";
import { bindGroups, type BoundElements, groupBlock, type GroupWidth, groupWidth, kernelName } from "./groups.ts";
import { forRowBlocks, reduceCode, rowMain, rowPlan, withPlan } from "./wgsl.ts";

/** Tensors of {@linkcode rmsNormBackward}. */
export interface RmsNormBackwardTensors {
  readonly x: Tensor;
  readonly weight: Tensor;
  readonly rstd: Tensor;
  readonly dOut: Tensor;
  readonly dx: Tensor;
  readonly dWeight?: Tensor;
}

/** Launches `Ops.rmsNormBackward`. */
export function rmsNormBackward(dispatcher: Dispatcher, tensors: RmsNormBackwardTensors): void {
  const { dWeight } = tensors;
  forRowBlocks(dispatcher, [tensors.x, tensors.rstd, tensors.dOut, tensors.dx], ([x, rstd, dOut, dx]) => {
    inputGradient(dispatcher, { ...tensors, x, rstd, dOut, dx });
    if (dWeight) weightGradient(dispatcher, { x, rstd, dOut, dWeight });
  }, Math.floor(dispatcher.limits.maxLoopTurns / 2));
}

function rstdOf(tensor: Tensor): BoundElements {
  return { name: "rstd", access: "read", element: "f32", tensor };
}

/** With g = dOut · weight: dx += rstd · g − x · rstd³ · mean(g · x). */
function inputGradient(dispatcher: Dispatcher, { x, weight, rstd, dOut, dx }: RmsNormBackwardTensors): void {
  const columns = weight.size;
  const width = groupWidth([x, weight, dOut, dx], [columns]);
  const plan = rowPlan(dispatcher, columns / width);
  const bound = bindGroups(
    width,
    [
      { name: "x", use: "read", tensor: x },
      { name: "weight", use: "read", tensor: weight },
      { name: "d_out", use: "read", tensor: dOut },
      { name: "dx", use: "update", tensor: dx },
    ],
    [rstdOf(rstd)],
    { rows: rstd.size, columns: columns / width, inverse_width: { f32: 1 / columns } },
  );
  const write = () => {
    const named = bound.named();
    const inputs = [[named.x, "base + c"], [named.d_out, "base + c"], [named.weight, "c"]] as const;
    const gradient = "dx += d_out * weight * scale - x * along;";
    return `${bound.code()}${reduceCode(plan)}${
      rowMain(`
  let columns = select(0u, params.columns, live);
  let base = row * params.columns;
  var products = 0.0;
  for (var c = lane; c < columns; c += LANES) ${groupBlock(width, inputs, "products += total(x * d_out * weight);")}
  let scale = select(0.0, rstd[params.at_rstd + row], live);
  let along = reduce(products, local) * params.inverse_width * scale * scale * scale;
  for (var c = lane; c < columns; c += LANES) ${groupBlock(width, [...inputs, [named.dx, "base + c"]], gradient)}
`)
    }`;
  };
  dispatcher.run({
    kernel: kernelName("rms_norm_backward input", [x]),
    code: { key: "rms_norm_backward input", form: withPlan(bound.form, plan), write },
    tensors: bound.tensors,
    params: bound.params,
    workgroups: linearGrid(Math.ceil(rstd.size / plan.rows)),
  });
}

/** How the rows of a column are shared out for the gradient of the weight. */
interface ColumnPlan {
  /** Groups side by side that a workgroup owns. */
  readonly columns: number;
  /** Invocations that share the rows of a column. */
  readonly lanes: number;
}

/**
 * On a GPU a row's loads of one workgroup fill a memory transaction of 128 bytes of f32, or 64 of f16, and as many lanes
 * as there can be share the rows; a software driver gets a column per lane and no barrier.
 */
function columnPlan({ isSoftware, limits }: Dispatcher, width: GroupWidth): ColumnPlan {
  if (isSoftware) return { columns: 8, lanes: 1 };
  const columns = 32 / width;
  return { columns, lanes: Math.min(1024, 2 ** Math.floor(Math.log2(limits.maxInvocations))) / columns };
}

/** dWeight += Σ_rows dOut · x · rstd. */
function weightGradient(
  dispatcher: Dispatcher,
  { x, rstd, dOut, dWeight }: { x: Tensor; rstd: Tensor; dOut: Tensor; dWeight: Tensor },
): void {
  const columns = dWeight.size;
  const width = groupWidth([x, dOut, dWeight], [columns]);
  const plan = columnPlan(dispatcher, width);
  const bound = bindGroups(
    width,
    [
      { name: "x", use: "read", tensor: x },
      { name: "d_out", use: "read", tensor: dOut },
      { name: "d_weight", use: "update", tensor: dWeight },
    ],
    [rstdOf(rstd)],
    { rows: rstd.size, columns: columns / width },
  );
  const write = () => {
    const named = bound.named();
    const sums = width === 8 ? [0, 1] : [0];
    return `${bound.code()}
const COLUMNS = ${plan.columns}u;
const LANES = ${plan.lanes}u;
${sums.map((part) => `var<workgroup> sums_${part}: array<V, COLUMNS * LANES>;`).join("\n")}

@compute @workgroup_size(COLUMNS, LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_id) lid: vec3u) {
  let column = wid.x * COLUMNS + lid.x;
  let rows = select(0u, params.rows, column < params.columns);
  var sum = array<V, ${sums.length}>();
  for (var row = lid.y; row < rows; row += LANES) {
    let at = row * params.columns + column;
    let scale = rstd[params.at_rstd + row];
    ${groupBlock(width, [[named.x, "at"], [named.d_out, "at"]], "sum[part] += d_out * x * scale;")}
  }
${plan.lanes === 1 ? "" : sumOfLanes(sums)}
  if (lid.y == 0u && column < params.columns) ${
      groupBlock(width, [[named.d_weight, "column"]], "d_weight += sum[part];")
    }
}
`;
  };
  dispatcher.run({
    kernel: kernelName("rms_norm_backward weight", [x]),
    code: {
      key: "rms_norm_backward weight",
      form: withPlan(bound.form, { lanes: plan.lanes, rows: plan.columns }),
      write,
    },
    tensors: bound.tensors,
    params: bound.params,
    workgroups: [Math.ceil(columns / width / plan.columns), 1, 1],
  });
}

function sumOfLanes(sums: readonly number[]): string {
  const each = (line: (part: number) => string) => sums.map(line).join(" ");
  return `
  let place = lid.y * COLUMNS + lid.x;
  ${each((part) => `sums_${part}[place] = sum[${part}];`)}
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lid.y < half) { ${each((part) => `sums_${part}[place] += sums_${part}[place + half * COLUMNS];`)} }
  }
  ${each((part) => `sum[${part}] = sums_${part}[place];`)}
`;
}
