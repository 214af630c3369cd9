/**
 * What kernels say to the device: one {@linkcode KernelCall} per dispatch, and the helpers that launchers share.
 *
 * Rules for kernels:
 * - Tensors are bound at `@group(0)`, bindings 0, 1, … in the order of `tensors`, written exactly as
 *   `@group(0) @binding(0) var<storage, read> x: array<f32>;` (or `read_write`). The uniform with `params` follows as the
 *   next binding: `@group(0) @binding(2) var<uniform> params: Params;` with one u32 or f32 field per param.
 * - A tensor may start at any element, a binding may not. The binding starts less than `offsetAlignmentBytes`
 *   before the tensor: add {@linkcode residual}, passed as a param, to every index.
 * - Two tensors of one call may lie in one buffer as long as their elements do not overlap. WebGPU refuses to bind a
 *   buffer as `read` and as `read_write` in one dispatch, so the dispatcher then declares all tensors on that buffer as
 *   `read_write`, in the WGSL too; kernels and launchers need not care.
 * - Subgroup functions need no `enable subgroups;`: the dispatcher writes it where the implementation wants it.
 * - Give every `var` in a loop a value: Deno's compiler clears a variable without one when the function is entered, not
 *   at each turn.
 * - Mesa's software driver cuts off an invocation silently once its loops, all together and nested ones multiplied, have
 *   taken 65,535 turns (loops of a few constant turns, which it unrolls, do not count). Where a loop grows with a tensor,
 *   split the work into dispatches so that it stays below `limits.maxLoopTurns`.
 * - Workgroups are counted per dimension up to 65,535; 1-D kernels use {@linkcode linearGrid} and
 *   {@linkcode LINEAR_INDEX}.
 *
 * @module
 */

import { type DType, elementBytes } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { storageOf } from "./webgpu_storage.ts";

/** Most workgroups in one dimension of a dispatch; the same on every WebGPU device. */
export const MAX_WORKGROUPS_PER_DIM = 65_535;

/** Most params of one call: a uniform slot of 256 bytes. */
export const MAX_PARAMS = 64;

/** Bytes of {@linkcode Dispatcher.workspace}. */
export const WORKSPACE_BYTES = 16 * 2 ** 20;

/** How a kernel uses a tensor. */
export type Access = "read" | "read_write";

/** A tensor bound to a kernel. */
export interface KernelTensor {
  /** What is bound. */
  readonly tensor: Tensor;
  /** How the kernel declares it. */
  readonly access: Access;
}

/** A field of the uniform struct: a plain number is a u32, `{ f32 }` a float. */
export type KernelParam = number | { readonly f32: number };

/** Number of workgroups in x, y and z. */
export type Workgroups = readonly [number, number, number];

/**
 * WGSL of a kernel: the text, or what writes it once. Key and form then say all that the text depends on, so that a
 * dispatch costs no text: a step of training takes ten thousands of them. The key is best a constant, and the form a
 * number for what differs from call to call, since putting a key together takes longer than all lookups; 0 if left out.
 */
export type KernelSource = string | { readonly key: string; readonly form?: number; readonly write: () => string };

/** One dispatch of a kernel. */
export interface KernelCall {
  /** Kernel and variant, for the profile and for errors, such as `matmul NT 64x64`. */
  readonly kernel: string;
  /** WGSL with the entry point `main`; the pipeline is cached by this source. */
  readonly code: KernelSource;
  /** Bound at `@group(0) @binding(0)`, `@binding(1)`, … in order. */
  readonly tensors: readonly KernelTensor[];
  /** Fields of the uniform struct bound after the tensors; none: no uniform is bound. */
  readonly params: readonly KernelParam[];
  /** Grid; a call with a zero in it does nothing. */
  readonly workgroups: Workgroups;
}

/** A call in words, for errors: its kernel and the shapes of its tensors. */
export function describeCall({ kernel, tensors }: KernelCall): string {
  return `${kernel} (${tensors.map(({ tensor }) => `[${tensor.shape}]`).join(", ")})`;
}

/** Limits of the device that kernels choose their variants by. */
export interface DispatchLimits {
  /** Largest binding in bytes, from the aligned start of the binding to the end of the tensor. */
  readonly maxBindingBytes: number;
  /** Workgroup memory in bytes. */
  readonly maxWorkgroupMemoryBytes: number;
  /** Invocations of one workgroup. */
  readonly maxInvocations: number;
  /** Storage buffers of one kernel. */
  readonly maxStorageBuffers: number;
  /** Bytes that the start of a binding is a multiple of; itself a multiple of 16. */
  readonly offsetAlignmentBytes: number;
  /** Turns that all loops of one invocation may take together; infinite on a GPU. */
  readonly maxLoopTurns: number;
}

/** Optional features of WebGPU that kernels choose their variants by. */
export interface KernelFeatures {
  /** Whether kernels may use 16-bit floats (`enable f16`). */
  readonly f16: boolean;
  /** Whether kernels may use subgroup functions. */
  readonly subgroups: boolean;
  /** Whether kernels may use subgroup matrices 16×16×16, f16 × f16 → f32, in subgroups that all have 32 invocations. */
  readonly subgroupMatrix: boolean;
  /** Whether kernels may see memory as several types (`requires buffer_view`). Left out: they may not. */
  readonly bufferView?: boolean;
}

/** Encodes kernels; the device runs them in order. */
export interface Dispatcher {
  /**
   * Encodes one dispatch.
   *
   * @throws {RangeError} when a grid, binding or param count is over a limit
   * @throws {ReferenceError} when a tensor has been freed
   * @throws {DeviceError} when an earlier error of the device is known
   */
  run(call: KernelCall): void;
  /** Limits of the device. */
  readonly limits: DispatchLimits;
  /** Whether kernels are laid out for a driver on the CPU, where barriers are dear and simple loops over rows are fast. */
  readonly isSoftware: boolean;
  /** Optional features of the device. */
  readonly features: KernelFeatures;
  /**
   * Memory of {@linkcode WORKSPACE_BYTES} for what one kernel leaves to the next of the same op: an f32 tensor that stays
   * with the dispatcher. Made at the first call; counted as reserved, not in the ledger, as it does not grow.
   */
  workspace(): Tensor;
  /** Size of every subgroup where kernels may use `subgroupShuffle`; 0 where they may not. */
  readonly subgroupLanes: number;
}

/** Elements between the start of the binding and the tensor's first element. */
export function residual(tensor: Tensor): number {
  return tensor.offset % (storageOf(tensor).owner.offsetAlignmentBytes / elementBytes(tensor.dtype));
}

/**
 * Whether loads of some elements work: every tensor starts at a multiple of as many elements, and every row stride is
 * one too.
 *
 * @param elements elements of one load, a power of two. Default 4, a vec4 of f32
 */
export function canVectorize(tensors: readonly Tensor[], strides: readonly number[], elements = 4): boolean {
  for (const { offset } of tensors) if (offset % elements !== 0) return false;
  for (const stride of strides) if (stride % elements !== 0) return false;
  return true;
}

/** Most elements of a tensor that fit a binding, wherever it starts. */
export function bindingElements(limits: DispatchLimits, dtype: DType = "f32"): number {
  return Math.floor((limits.maxBindingBytes - limits.offsetAlignmentBytes) / elementBytes(dtype));
}

/** Folds a 1-D grid of any size into x and y; the kernel finds its number with {@linkcode LINEAR_INDEX} and guards. */
export function linearGrid(workgroups: number): Workgroups {
  if (workgroups <= MAX_WORKGROUPS_PER_DIM) return [workgroups, 1, 1];
  const y = Math.ceil(workgroups / MAX_WORKGROUPS_PER_DIM);
  return [Math.ceil(workgroups / y), y, 1];
}

/**
 * WGSL expression of the workgroup's number in a {@linkcode linearGrid}. Needs the builtins `wid: vec3u` (workgroup_id)
 * and `groups: vec3u` (num_workgroups). The last numbers may lie past the grid that was asked for.
 */
export const LINEAR_INDEX = "(wid.x + wid.y * groups.x)";

/** A range of rows, end exclusive. */
export interface RowBlock {
  /** First row. */
  readonly start: number;
  /** One past the last row. */
  readonly end: number;
}

/**
 * Splits rows so that the `rows(start, end)` views of every tensor fit a binding, whatever their alignment; one block
 * when all fits already.
 *
 * @param limits limits of the device
 * @param rows rows of all tensors
 * @param rowBytes bytes per row of each tensor that is split
 * @param multiple rows per block are a multiple of this, except in the last; default 1
 * @param maxRows most rows of a block, at least `multiple`; default: as many as fit
 * @throws {RangeError} when `multiple` rows alone do not fit
 */
export function rowBlocks(
  limits: DispatchLimits,
  rows: number,
  rowBytes: readonly number[],
  multiple = 1,
  maxRows: number = Infinity,
): RowBlock[] {
  const fitting = limits.maxBindingBytes - limits.offsetAlignmentBytes;
  const widest = Math.max(1, ...rowBytes);
  const step = Math.floor(Math.min(maxRows, fitting / widest) / multiple) * multiple;
  if (step < 1) {
    throw new RangeError(
      `Cannot bind ${multiple} rows of ${widest} bytes: a binding holds at most ${limits.maxBindingBytes} bytes`,
    );
  }
  const blocks: RowBlock[] = [];
  for (let start = 0; start < rows; start += step) blocks.push({ start, end: Math.min(rows, start + step) });
  return blocks;
}
