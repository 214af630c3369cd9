/**
 * RMSNorm and its backward. Dims: T rows, D model width.
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

function forwardCode(width: VectorWidth, plan: RowPlan): string {
  return `${vectorCode(width)}${reduceCode(plan)}
${
    declare(
      [["x", "read", "V"], ["weight", "read", "V"], ["out", "read_write", "V"], ["rstd", "read_write", "f32"]],
      ["rows", "columns", "at_x", "at_weight", "at_out", "at_rstd", "inverse_width: f32", "epsilon: f32"],
    )
  }${
    rowMain(`
  let columns = select(0u, params.columns, live);
  let source = params.at_x + row * params.columns;
  let target_row = params.at_out + row * params.columns;
  var squares = 0.0;
  for (var c = lane; c < columns; c += LANES) { squares += total(x[source + c] * x[source + c]); }
  let scale = 1.0 / sqrt(reduce(squares, local) * params.inverse_width + params.epsilon);
  for (var c = lane; c < columns; c += LANES) {
    out[target_row + c] = x[source + c] * scale * weight[params.at_weight + c];
  }
  if (live && lane == 0u) { rstd[params.at_rstd + row] = scale; }
`)
  }`;
}

/** Launches `Ops.rmsNorm`. */
export function rmsNorm(
  dispatcher: Dispatcher,
  tensors: { x: Tensor; weight: Tensor; out: Tensor; rstd: Tensor },
  epsilon: number,
): void {
  const { weight } = tensors;
  const columns = weight.size;
  forRowBlocks(dispatcher, [tensors.x, tensors.out, tensors.rstd], ([x, out, rstd]) => {
    const width = vectorWidth([x, weight, out], [columns]);
    const plan = rowPlan(dispatcher, columns / width);
    dispatcher.run({
      kernel: "rms_norm",
      code: forwardCode(width, plan),
      tensors: [
        { tensor: x, access: "read" },
        { tensor: weight, access: "read" },
        { tensor: out, access: "read_write" },
        { tensor: rstd, access: "read_write" },
      ],
      params: [
        rstd.size,
        columns / width,
        ...[x, weight, out].map((tensor) => residual(tensor) / width),
        residual(rstd),
        { f32: 1 / columns },
        { f32: epsilon },
      ],
      workgroups: linearGrid(Math.ceil(rstd.size / plan.rows)),
    });
  });
}

/** With g = dOut · weight: dx += rstd · g − x · rstd³ · mean(g · x). */
function inputGradientCode(width: VectorWidth, plan: RowPlan): string {
  return `${vectorCode(width)}${reduceCode(plan)}
${
    declare([
      ...[["x", "read", "V"], ["weight", "read", "V"], ["rstd", "read", "f32"]] as const,
      ...[["d_out", "read", "V"], ["dx", "read_write", "V"]] as const,
    ], ["rows", "columns", "at_x", "at_weight", "at_d_out", "at_dx", "at_rstd", "inverse_width: f32"])
  }${
    rowMain(`
  let columns = select(0u, params.columns, live);
  let at_x = params.at_x + row * params.columns;
  let at_d_out = params.at_d_out + row * params.columns;
  let at_dx = params.at_dx + row * params.columns;
  var products = 0.0;
  for (var c = lane; c < columns; c += LANES) {
    products += total(x[at_x + c] * d_out[at_d_out + c] * weight[params.at_weight + c]);
  }
  let scale = select(0.0, rstd[params.at_rstd + row], live);
  let along = reduce(products, local) * params.inverse_width * scale * scale * scale;
  for (var c = lane; c < columns; c += LANES) {
    dx[at_dx + c] += d_out[at_d_out + c] * weight[params.at_weight + c] * scale - x[at_x + c] * along;
  }
`)
  }`;
}

/** How the rows of a column are shared out for the gradient of the weight. */
interface ColumnPlan {
  /** Loads side by side that a workgroup owns. */
  readonly columns: number;
  /** Invocations that share the rows of a column. */
  readonly lanes: number;
}

/**
 * A workgroup owns some columns and walks down all rows. On a GPU the columns make a cache line of 128 bytes, and as many
 * lanes as there can be share the rows; a software driver gets a column per lane and no barrier.
 */
function columnPlan({ isSoftware, limits }: Dispatcher, width: VectorWidth): ColumnPlan {
  if (isSoftware) return { columns: 8, lanes: 1 };
  const columns = 32 / width;
  return { columns, lanes: Math.min(1024, 2 ** Math.floor(Math.log2(limits.maxInvocations))) / columns };
}

/** dWeight += Σ_rows dOut · x · rstd. */
function weightGradientCode(width: VectorWidth, { columns, lanes }: ColumnPlan): string {
  return `${vectorCode(width)}
const COLUMNS = ${columns}u;
const LANES = ${lanes}u;
${
    declare([
      ...[["x", "read", "V"], ["rstd", "read", "f32"]] as const,
      ...[["d_out", "read", "V"], ["d_weight", "read_write", "V"]] as const,
    ], ["rows", "columns", "at_x", "at_d_out", "at_d_weight", "at_rstd"])
  }
var<workgroup> sums: array<V, COLUMNS * LANES>;

@compute @workgroup_size(COLUMNS, LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_id) lid: vec3u) {
  let column = wid.x * COLUMNS + lid.x;
  let rows = select(0u, params.rows, column < params.columns);
  var sum = V(0.0);
  for (var row = lid.y; row < rows; row += LANES) {
    let at = row * params.columns + column;
    sum += d_out[params.at_d_out + at] * x[params.at_x + at] * rstd[params.at_rstd + row];
  }
${lanes === 1 ? "" : sumOfLanes()}
  if (lid.y == 0u && column < params.columns) { d_weight[params.at_d_weight + column] += sum; }
}
`;
}

function sumOfLanes(): string {
  return `
  let place = lid.y * COLUMNS + lid.x;
  sums[place] = sum;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lid.y < half) { sums[place] += sums[place + half * COLUMNS]; }
  }
  sum = sums[place];
`;
}

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

function inputGradient(dispatcher: Dispatcher, tensors: RmsNormBackwardTensors): void {
  const { x, weight, rstd, dOut, dx } = tensors;
  const columns = weight.size;
  const width = vectorWidth([x, weight, dOut, dx], [columns]);
  const plan = rowPlan(dispatcher, columns / width);
  dispatcher.run({
    kernel: "rms_norm_backward input",
    code: inputGradientCode(width, plan),
    tensors: [
      ...[x, weight, rstd, dOut].map((tensor) => ({ tensor, access: "read" } as const)),
      { tensor: dx, access: "read_write" },
    ],
    params: [
      rstd.size,
      columns / width,
      ...[x, weight, dOut, dx].map((tensor) => residual(tensor) / width),
      residual(rstd),
      { f32: 1 / columns },
    ],
    workgroups: linearGrid(Math.ceil(rstd.size / plan.rows)),
  });
}

function weightGradient(
  dispatcher: Dispatcher,
  tensors: { x: Tensor; rstd: Tensor; dOut: Tensor; dWeight: Tensor },
): void {
  const { x, rstd, dOut, dWeight } = tensors;
  const columns = dWeight.size;
  const width = vectorWidth([x, dOut, dWeight], [columns]);
  const plan = columnPlan(dispatcher, width);
  dispatcher.run({
    kernel: "rms_norm_backward weight",
    code: weightGradientCode(width, plan),
    tensors: [
      ...[x, rstd, dOut].map((tensor) => ({ tensor, access: "read" } as const)),
      { tensor: dWeight, access: "read_write" },
    ],
    params: [
      rstd.size,
      columns / width,
      ...[x, dOut, dWeight].map((tensor) => residual(tensor) / width),
      residual(rstd),
    ],
    workgroups: [Math.ceil(columns / width / plan.columns), 1, 1],
  });
}
