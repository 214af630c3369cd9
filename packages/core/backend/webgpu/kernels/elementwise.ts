/**
 * Kernels that treat every element alike: add, scale, fill, copy, cast.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { elementBytes } from "../../../tensor/shape.ts";
import type { CommandQueue } from "../command_queue.ts";
import {
  type Access,
  type Dispatcher,
  type KernelParam,
  type KernelTensor,
  LINEAR_INDEX,
  linearGrid,
  residual,
} from "../dispatch.ts";
import { storageOf } from "../webgpu_storage.ts";
import {
  accessCode,
  groupBinding,
  groupBlock,
  groupCode,
  groupComponents,
  groupStart,
  type GroupTensor,
  type GroupWidth,
  groupWidth,
  kernelName,
  type Use,
  withTensor,
} from "./groups.ts";
import { declare, forElementBlocks } from "./wgsl.ts";

/** Invocations of a workgroup. */
const WORKGROUP = 256;

/** A kernel that does the same with every element. */
export interface ElementwiseKernel {
  /** Name for the profile; different kernels have different names. */
  readonly kernel: string;
  /** Names and use of the tensors that have as many elements as one another. */
  readonly tensors: readonly (readonly [name: string, use: Use])[];
  /** Names and access of further tensors, bound whole as `array<f32>`. */
  readonly whole?: readonly (readonly [name: string, access: Access])[];
  /** Fields of `params`. */
  readonly fields?: readonly string[];
  /** Whether f32 tensors are bits that are only moved. Default false. */
  readonly bits?: boolean;
  /** Functions that the body calls. */
  readonly functions?: string;
  /** What is done before the first load, in WGSL. */
  readonly before?: string;
  /**
   * What is done, in WGSL, or for a number of components of `V`. The name of each tensor is its `V`, and `element` the
   * number of the first element of it; `whole` tensors start at `params.at_<name>`.
   */
  readonly body: string | ((components: number) => string);
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
    const width = groupWidth(views, [count]);
    const tensors: KernelTensor[] = [];
    const numbers: KernelParam[] = [count / width];
    let form: number = width;
    for (let i = 0; i < views.length; i++) {
      const tensor = views[i];
      const use = kernel.tensors[i][1];
      form = withTensor(form, use, tensor.dtype);
      tensors.push({ tensor, access: use === "read" ? "read" : "read_write" });
      numbers.push(groupStart(tensor, width));
    }
    for (let i = 0; i < whole.length; i++) {
      tensors.push({ tensor: whole[i], access: kernel.whole![i][1] });
      numbers.push(residual(whole[i]));
    }
    if (params) numbers.push(...params(start));
    const write = () => {
      const named = kernel.tensors.map(([name, use], i) => ({ name, use, dtype: views[i].dtype }));
      return elementwiseCode(kernel, named, width);
    };
    dispatcher.run({
      kernel: kernelName(kernel.kernel, views),
      code: { key: kernel.kernel, form, write },
      tensors,
      params: numbers,
      workgroups: linearGrid(Math.ceil(count / width / WORKGROUP)),
    });
  });
}

function elementwiseCode(kernel: ElementwiseKernel, tensors: readonly GroupTensor[], width: GroupWidth): string {
  const { whole = [], fields = [], functions = "", before = "", body, bits = false } = kernel;
  const components = groupComponents(width);
  const typed = bits ? tensors.map((tensor) => ({ ...tensor, dtype: "u32" as const })) : tensors;
  const bindings = [
    ...typed.map((tensor) => groupBinding(tensor, width)),
    ...whole.map(([name, access]) => [name, access, "f32"] as const),
  ];
  const text = typeof body === "string" ? body : body(components);
  const numbered = `let element = i * ${width}u + part * ${components}u;\n    ${text}`;
  return `${groupCode(width, bits ? "u32" : "f32")}
${declare(bindings, ["count", ...bindings.map(([name]) => `at_${name}`), ...fields])}
${accessCode(typed, width)}${functions}
@compute @workgroup_size(${WORKGROUP})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = ${LINEAR_INDEX} * ${WORKGROUP}u + local;
  if (i >= params.count) { return; }
  ${before}
  ${groupBlock(width, typed.map((tensor) => [tensor, "i"] as const), numbered)}
}
`;
}

const ADD: ElementwiseKernel = {
  kernel: "add",
  tensors: [["x", "read"], ["out", "update"]],
  body: "out += x;",
};

/** Launches `Ops.add`. */
export function add(dispatcher: Dispatcher, x: Tensor, out: Tensor): void {
  runElementwise(dispatcher, ADD, { tensors: [x, out] });
}

const SCALE: ElementwiseKernel = {
  kernel: "scale",
  tensors: [["x", "update"]],
  fields: ["factor: f32"],
  body: "x *= params.factor;",
};

/** Launches `Ops.scale`. */
export function scale(dispatcher: Dispatcher, x: Tensor, factor: number): void {
  runElementwise(dispatcher, SCALE, { tensors: [x], params: () => [{ f32: factor }] });
}

const CAST: ElementwiseKernel = { kernel: "cast", tensors: [["x", "read"], ["out", "write"]], body: "out = x;" };

/** Launches `Ops.cast`. */
export function cast(queue: CommandQueue, x: Tensor, out: Tensor): void {
  if (x.dtype === out.dtype) copy(queue, x, out);
  else runElementwise(queue, CAST, { tensors: [x, out] });
}

const FILL: ElementwiseKernel = {
  kernel: "fill",
  tensors: [["x", "write"]],
  fields: ["value: f32"],
  body: "x = V(params.value);",
};

/** Launches `Ops.fill`; zeros are cleared by the device itself. */
export function fill(queue: CommandQueue, x: Tensor, value: number): void {
  if (!Object.is(value, 0)) return runElementwise(queue, FILL, { tensors: [x], params: () => [{ f32: value }] });
  if (x.size === 0) return;
  const { buffer } = storageOf(x);
  queue.encode("clear", [buffer], (encoder) => {
    encoder.clearBuffer(buffer.gpu, x.offset * elementBytes(x.dtype), x.bytes);
  });
}

/** Bits are moved as integers, which no device rounds or flushes. */
const COPY: ElementwiseKernel = {
  kernel: "copy",
  tensors: [["x", "read"], ["out", "write"]],
  bits: true,
  body: "out = x;",
};

/**
 * Launches `Ops.copy`. A GPU copies several times faster by a kernel than by itself, a software driver the other way
 * round; but within one buffer WebGPU lets the device copy nothing.
 */
export function copy(queue: CommandQueue, x: Tensor, out: Tensor): void {
  const source = storageOf(x).buffer;
  const target = storageOf(out).buffer;
  if (!queue.isSoftware || source === target) {
    using from = x.words();
    using to = out.words();
    return runElementwise(queue, COPY, { tensors: [from, to] });
  }
  if (x.size === 0) return;
  queue.encode("copy", [source, target], (encoder) => {
    const [from, to] = [x, out].map(({ offset, dtype }) => offset * elementBytes(dtype));
    encoder.copyBufferToBuffer(source.gpu, from, target.gpu, to, x.bytes);
  });
}
