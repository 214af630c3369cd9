/**
 * Kernels that treat every element alike: add, scale, fill, copy.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type DType, ELEMENT_BYTES } from "../../../tensor/shape.ts";
import type { CommandQueue } from "../command_queue.ts";
import { type Access, type Dispatcher, type KernelParam, LINEAR_INDEX, linearGrid, residual } from "../dispatch.ts";
import { storageOf } from "../webgpu_storage.ts";
import { declare, forElementBlocks, type VectorWidth, vectorWidth } from "./wgsl.ts";

/** Invocations of a workgroup. */
const WORKGROUP = 256;

/** A kernel that does the same with every element. */
export interface ElementwiseKernel {
  /** Name for the profile. */
  readonly kernel: string;
  /** Names and access of the tensors that have as many elements as one another. */
  readonly tensors: readonly (readonly [name: string, access: Access])[];
  /** Names and access of further tensors, bound whole as `array<f32>`. */
  readonly whole?: readonly (readonly [name: string, access: Access])[];
  /** Fields of `params`. */
  readonly fields?: readonly string[];
  /** Whether `V` is always a scalar, for a body that needs the number of the element. Default false. */
  readonly scalar?: boolean;
  /** Element type. Default f32. */
  readonly element?: DType;
  /** Functions that the body calls. */
  readonly functions?: string;
  /**
   * What is done, in WGSL. Element `at_<name>` of each tensor is one `V`, a vec4 or a scalar; `whole` tensors start at
   * `params.at_<name>`; `i` is the number of the `V`.
   */
  readonly body: string;
}

/** What an elementwise kernel runs on. */
export interface ElementwiseArguments {
  /** In the order of the kernel's `tensors`; as many elements each. */
  readonly tensors: readonly Tensor[];
  /** In the order of the kernel's `whole`. */
  readonly whole?: readonly Tensor[];
  /** In the order of the kernel's `fields`. Called for each block of elements with the number of its first. */
  readonly params?: (start: number) => readonly KernelParam[];
}

/** Runs an elementwise kernel over tensors of any size. */
export function runElementwise(dispatcher: Dispatcher, kernel: ElementwiseKernel, args: ElementwiseArguments): void {
  const { whole = [], params } = args;
  forElementBlocks(dispatcher, args.tensors, (views, { start }) => {
    const count = views[0].size;
    const width = kernel.scalar ? 1 : vectorWidth(views, [count]);
    dispatcher.run({
      kernel: kernel.kernel,
      code: elementwiseCode(kernel, width),
      tensors: [
        ...views.map((tensor, i) => ({ tensor, access: kernel.tensors[i][1] })),
        ...whole.map((tensor, i) => ({ tensor, access: kernel.whole![i][1] })),
      ],
      params: [
        count / width,
        ...views.map((tensor) => residual(tensor) / width),
        ...whole.map(residual),
        ...params?.(start) ?? [],
      ],
      workgroups: linearGrid(Math.ceil(count / width / WORKGROUP)),
    });
  });
}

function elementwiseCode(kernel: ElementwiseKernel, width: VectorWidth): string {
  const { tensors, whole = [], fields = [], element = "f32", functions = "", body } = kernel;
  const vector = width === 4 ? `vec4<${element}>` : element;
  const names = [...tensors, ...whole].map(([name]) => `at_${name}`);
  const bindings = [
    ...tensors.map(([name, access]) => [name, access, "V"] as const),
    ...whole.map(([name, access]) => [name, access, "f32"] as const),
  ];
  return `alias V = ${vector};
${declare(bindings, ["count", ...names, ...fields])}${functions}
@compute @workgroup_size(${WORKGROUP})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = ${LINEAR_INDEX} * ${WORKGROUP}u + local;
  if (i >= params.count) { return; }
${tensors.map(([name]) => `  let at_${name} = params.at_${name} + i;\n`).join("")}
  ${body}
}
`;
}

const ADD: ElementwiseKernel = {
  kernel: "add",
  tensors: [["x", "read"], ["out", "read_write"]],
  body: "out[at_out] += x[at_x];",
};

/** Launches `Ops.add`. */
export function add(dispatcher: Dispatcher, x: Tensor, out: Tensor): void {
  runElementwise(dispatcher, ADD, { tensors: [x, out] });
}

const SCALE: ElementwiseKernel = {
  kernel: "scale",
  tensors: [["x", "read_write"]],
  fields: ["factor: f32"],
  body: "x[at_x] *= params.factor;",
};

/** Launches `Ops.scale`. */
export function scale(dispatcher: Dispatcher, x: Tensor, factor: number): void {
  runElementwise(dispatcher, SCALE, { tensors: [x], params: () => [{ f32: factor }] });
}

const FILL: ElementwiseKernel = {
  kernel: "fill",
  tensors: [["x", "read_write"]],
  fields: ["value: f32"],
  body: "x[at_x] = V(params.value);",
};

/** Launches `Ops.fill`; zeros are cleared by the device itself. */
export function fill(queue: CommandQueue, x: Tensor, value: number): void {
  if (!Object.is(value, 0)) return runElementwise(queue, FILL, { tensors: [x], params: () => [{ f32: value }] });
  if (x.size === 0) return;
  const { buffer } = storageOf(x);
  queue.encode("clear", [buffer], (encoder) => {
    encoder.clearBuffer(buffer.gpu, x.offset * ELEMENT_BYTES, x.bytes);
  });
}

/** Bits are moved as integers, which no device rounds or flushes. */
const COPY: ElementwiseKernel = {
  kernel: "copy",
  tensors: [["x", "read"], ["out", "read_write"]],
  element: "u32",
  body: "out[at_out] = x[at_x];",
};

/**
 * Launches `Ops.copy`. A GPU copies several times faster by a kernel than by itself, a software driver the other way
 * round; but within one buffer WebGPU lets the device copy nothing.
 */
export function copy(queue: CommandQueue, x: Tensor, out: Tensor): void {
  const source = storageOf(x).buffer;
  const target = storageOf(out).buffer;
  if (!queue.isSoftware || source === target) return runElementwise(queue, COPY, { tensors: [x, out] });
  if (x.size === 0) return;
  queue.encode("copy", [source, target], (encoder) => {
    const [from, to] = [x.offset * ELEMENT_BYTES, out.offset * ELEMENT_BYTES];
    encoder.copyBufferToBuffer(source.gpu, from, target.gpu, to, x.bytes);
  });
}
