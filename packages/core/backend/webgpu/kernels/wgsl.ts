/**
 * Pieces of WGSL and of launchers that the kernel families share.
 *
 * @module
 */

import { elementBytes, elementCount } from "../../../tensor/shape.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import { type Access, canVectorize, type Dispatcher, LINEAR_INDEX, type RowBlock, rowBlocks } from "../dispatch.ts";

/** Elements that a kernel loads at a time. */
export type VectorWidth = 1 | 4;

/** A tensor as WGSL declares it: name, access and element type. */
export type Binding = readonly [name: string, access: Access, element: string];

/** Bindings in order and, after them, the uniform `params` with u32 fields unless a field says `name: f32`. */
export function declare(bindings: readonly Binding[], params: readonly string[]): string {
  const tensors = bindings.map(([name, access, element], i) =>
    `@group(0) @binding(${i}) var<storage, ${access}> ${name}: array<${element}>;`
  );
  const fields = params.map((field) => field.includes(":") ? field : `${field}: u32`).join(", ");
  return [
    ...tensors,
    `struct Params { ${fields} }`,
    `@group(0) @binding(${bindings.length}) var<uniform> params: Params;`,
    "",
  ].join("\n");
}

/** The widest loads that tensors and their row strides allow. */
export function vectorWidth(tensors: readonly Tensor[], strides: readonly number[]): VectorWidth {
  return canVectorize(tensors, strides) ? 4 : 1;
}

/** `V`, the type of one load, and `total(v)`, the sum of its components. */
export function vectorCode(width: VectorWidth): string {
  return width === 4
    ? "alias V = vec4f;\nfn total(v: V) -> f32 { return (v.x + v.y) + (v.z + v.w); }\n"
    : "alias V = f32;\nfn total(v: V) -> f32 { return v; }\n";
}

/** How the rows of a tensor are shared out: `lanes` invocations work on a row, `rows` rows make a workgroup. */
export interface RowPlan {
  readonly lanes: number;
  readonly rows: number;
}

/** A form of a kernel with its plan; see `KernelSource`. */
export function withPlan(form: number, { lanes, rows }: RowPlan): number {
  return (form * 128 + rows) * 512 + lanes;
}

/** Loads per row and lane that a plan aims at on a GPU. */
const LOADS_PER_LANE = 4;

/** Loops over a row that a row kernel may have, and some turns to spare for the reduction. */
const MAX_PASSES = 4;

/**
 * Shares out rows. A GPU wants neighbouring lanes at neighbouring addresses; a software driver wants a row per lane,
 * since barriers cost it more than the row itself.
 *
 * @param loads loads that one row takes
 * @param maxLanes most lanes on one row, a power of two
 */
export function rowPlan(dispatcher: Dispatcher, loads: number, maxLanes = 256): RowPlan {
  const { isSoftware, limits } = dispatcher;
  const loadsPerLane = isSoftware ? Math.floor(limits.maxLoopTurns / MAX_PASSES) : LOADS_PER_LANE;
  const wanted = 2 ** Math.ceil(Math.log2(Math.max(1, loads / loadsPerLane)));
  const lanes = Math.min(Math.max(isSoftware ? 1 : 8, wanted), maxLanes, limits.maxInvocations);
  return { lanes, rows: Math.max(1, (isSoftware ? 16 : 64) / lanes) };
}

/**
 * The constants `LANES` and `ROWS` of a plan and `reduce(value, local)`, which adds up the values of the lanes of a row
 * in a fixed order and must be called by all invocations of the workgroup.
 */
export function reduceCode({ lanes, rows }: RowPlan): string {
  const constants = `const LANES = ${lanes}u;\nconst ROWS = ${rows}u;\n`;
  if (lanes === 1) return constants + "fn reduce(value: f32, local: u32) -> f32 { return value; }\n";
  return `${constants}
var<workgroup> lane_values: array<f32, ${lanes * rows}>;
fn reduce(value: f32, local: u32) -> f32 {
  lane_values[local] = value;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (local % LANES < half) { lane_values[local] += lane_values[local + half]; }
  }
  workgroupBarrier();
  let sum = lane_values[local - local % LANES];
  workgroupBarrier();
  return sum;
}
`;
}

/** Head of a row kernel: `row`, `lane` and `live`, which tells rows from the padding of the last workgroups. */
export function rowMain(body: string): string {
  return `
@compute @workgroup_size(LANES * ROWS)
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let row = ${LINEAR_INDEX} * ROWS + local / LANES;
  let lane = local % LANES;
  let live = row < params.rows;
${body}}
`;
}

/**
 * Calls `run` for blocks of rows whose views fit a binding, one after the other; with the tensors themselves when all
 * rows fit.
 *
 * @param tensors tensors whose first dim is the rows
 * @param run gets the views, which are freed after it, and the block
 * @param maxRows most rows of a block
 */
export function forRowBlocks<T extends readonly Tensor[]>(
  dispatcher: Dispatcher,
  tensors: T,
  run: (views: T, block: RowBlock) => void,
  maxRows: number = Infinity,
): void {
  const rows = tensors[0].shape[0];
  const widths = tensors.map(({ shape, dtype }) => elementCount(shape.slice(1)) * elementBytes(dtype));
  const blocks = rowBlocks(dispatcher.limits, rows, widths, 1, maxRows);
  if (blocks.length === 1) return run(tensors, blocks[0]);
  for (const block of blocks) withViews(tensors, (tensor) => tensor.rows(block.start, block.end), run, block);
}

/**
 * As {@linkcode forRowBlocks} for tensors of any shape and one number of elements, seen as one row of elements.
 *
 * @param maxElements most elements of a block
 */
export function forElementBlocks<T extends readonly Tensor[]>(
  dispatcher: Dispatcher,
  tensors: T,
  run: (views: T, block: RowBlock) => void,
  maxElements: number = Infinity,
): void {
  const { limits } = dispatcher;
  const widths = tensors.map(({ dtype }) => elementBytes(dtype));
  const aligned = limits.offsetAlignmentBytes / Math.min(...widths);
  const blocks = rowBlocks(limits, tensors[0].size, widths, aligned, maxElements);
  if (blocks.length === 1) return run(tensors, blocks[0]);
  for (const block of blocks) {
    const { start, end } = block;
    withViews(tensors, (tensor) => tensor.elements(start, end), run, block);
  }
}

function withViews<T extends readonly Tensor[]>(
  tensors: T,
  view: (tensor: Tensor) => Tensor,
  run: (views: T, block: RowBlock) => void,
  block: RowBlock,
): void {
  const views = tensors.map(view);
  try {
    run(views as readonly Tensor[] as T, block);
  } finally {
    for (const each of views) each.free();
  }
}
