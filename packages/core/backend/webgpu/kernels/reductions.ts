/**
 * Sums in a fixed order: of all elements, of squares, and the factor that clips a gradient's norm.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type ClipOptions, PARTIAL_SUMS } from "../../ops.ts";
import { type Dispatcher, residual } from "../dispatch.ts";
import {
  declare,
  forElementBlocks,
  reduceCode,
  type RowPlan,
  vectorCode,
  type VectorWidth,
  vectorWidth,
} from "./wgsl.ts";

/** Invocations that share a tensor at least: the lanes of the one sum, or a lane for each partial sum. */
const SHARING_LANES = 256;

/** Bits of an infinite f32, which WGSL cannot write down. */
const INFINITY_BITS = 0x7f800000;

/** Largest finite f32. */
const LARGEST = (2 - 2 ** -23) * 2 ** 127;

/** `not_finite(x)`, by the bits of x: WGSL lets compilers assume that numbers are finite. */
export const NOT_FINITE = `
fn not_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u; }
`;

/** Loads that a lane has under way at a time. */
const AHEAD = 4;

/** What is added up of a load. */
type Term = (v: string) => string;

/**
 * `sums` partial sums; number s adds up every sums × LANES-th load of x. On a GPU a workgroup makes one partial sum, on
 * a software driver a lane does.
 */
function code(width: VectorWidth, plan: RowPlan, term: Term): string {
  const ahead = Array.from({ length: AHEAD }, (_, n) => n);
  return `${vectorCode(width)}${reduceCode(plan)}
${declare([["x", "read", "V"], ["out", "read_write", "f32"]], ["count", "sums", "keep", "at_x", "at_out"])}
@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) local: u32) {
  let s = wid.x * ROWS + local / LANES;
  let step = params.sums * LANES;
  var sum = 0.0;
  var i = s * LANES + local % LANES;
  for (; i + ${AHEAD - 1}u * step < params.count; i += ${AHEAD}u * step) {
    ${ahead.map((n) => `let v${n} = x[params.at_x + i + ${n}u * step];`).join("\n    ")}
    ${ahead.map((n) => `sum += total(${term(`v${n}`)});`).join("\n    ")}
  }
  for (; i < params.count; i += step) {
    let v = x[params.at_x + i];
    sum += total(${term("v")});
  }
  let whole = reduce(sum, local);
  if (local % LANES == 0u && s < params.sums) {
    let before = select(0.0, out[params.at_out + s], params.keep == 1u);
    out[params.at_out + s] = before + whole;
  }
}
`;
}

function planSums({ isSoftware, limits }: Dispatcher, sums: number): RowPlan {
  if (isSoftware && sums > 1) return { lanes: 1, rows: 64 };
  return { lanes: sums > 1 || limits.maxInvocations < 1024 ? SHARING_LANES : 1024, rows: 1 };
}

function run(dispatcher: Dispatcher, kernel: string, term: Term, x: Tensor, out: Tensor, keep: boolean): void {
  const sums = out.size;
  const width = vectorWidth([x], [x.size]);
  const plan = planSums(dispatcher, sums);
  dispatcher.run({
    kernel,
    code: code(width, plan, term),
    tensors: [{ tensor: x, access: "read" }, { tensor: out, access: "read_write" }],
    params: [x.size / width, sums, keep ? 1 : 0, residual(x) / width, residual(out)],
    workgroups: [Math.ceil(sums / plan.rows), 1, 1],
  });
}

/** Elements that the invocations of one dispatch get through, even one by one, with turns to spare for `reduce`. */
function maxElements({ limits }: Dispatcher): number {
  return SHARING_LANES * Math.floor(limits.maxLoopTurns / 2);
}

/** Launches `Ops.sum`. */
export function sum(dispatcher: Dispatcher, x: Tensor, out: Tensor): void {
  forElementBlocks(
    dispatcher,
    [x],
    ([block], { start }) => run(dispatcher, "sum", (v) => v, block, out, start > 0),
    maxElements(dispatcher),
  );
}

/** Launches `Ops.sumSquares`. */
export function sumSquares(dispatcher: Dispatcher, x: Tensor, out: Tensor): void {
  forElementBlocks(
    dispatcher,
    [x],
    ([block]) => run(dispatcher, "sum_squares", (v) => `${v} * ${v}`, block, out, true),
    maxElements(dispatcher),
  );
}

const CLIP_FACTOR = `
${
  declare([["partials", "read", "f32"], ["result", "read_write", "f32"]], [
    ...["at_partials", "at_result", "infinity", "max_norm: f32", "gradient_scale: f32"],
  ])
}${NOT_FINITE}
@compute @workgroup_size(1)
fn main() {
  var squares = 0.0;
  var broken = false;
  for (var i = 0u; i < ${PARTIAL_SUMS}u; i++) {
    let partial = partials[params.at_partials + i];
    squares += partial;
    broken = broken || not_finite(partial);
  }
  broken = broken || not_finite(squares);
  let norm = sqrt(squares) * params.gradient_scale;
  result[params.at_result] = select(norm, bitcast<f32>(params.infinity), broken);
  result[params.at_result + 1u] = select(min(1.0, params.max_norm / (norm + 1e-6)), 0.0, broken);
}
`;

/** Launches `Ops.clipFactor`. */
export function clipFactor(
  dispatcher: Dispatcher,
  partials: Tensor,
  result: Tensor,
  maxNorm: number,
  { gradientScale = 1 }: ClipOptions,
): void {
  dispatcher.run({
    kernel: "clip_factor",
    code: CLIP_FACTOR,
    tensors: [{ tensor: partials, access: "read" }, { tensor: result, access: "read_write" }],
    params: [
      ...[residual(partials), residual(result), INFINITY_BITS],
      ...[{ f32: Math.min(maxNorm, LARGEST) }, { f32: gradientScale }],
    ],
    workgroups: [1, 1, 1],
  });
}
