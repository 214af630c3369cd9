/**
 * Collects dispatches and copies into batches and hands them to the device.
 *
 * @module
 */

import { elementBytes } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { PooledBuffer } from "./buffer_pool.ts";
import type { DeviceErrors } from "./device_error.ts";
import {
  type Dispatcher,
  type DispatchLimits,
  type KernelCall,
  type KernelFeatures,
  MAX_PARAMS,
  MAX_WORKGROUPS_PER_DIM,
  residual,
} from "./dispatch.ts";
import { PipelineCache } from "./pipeline_cache.ts";
import type { Timestamps } from "./timestamps.ts";
import { UniformSlots } from "./uniform_slots.ts";
import { storageOf } from "./webgpu_storage.ts";

/** Dispatches after which a batch is submitted, so that the device starts early. */
export const BATCH_DISPATCHES = 256;

/**
 * Bind groups that are made before all are forgotten. Making one takes a GPU's driver about ten times as long as the
 * rest of a dispatch, and a step of training asks for the same thousands of them every time.
 */
const MAX_BIND_GROUPS = 32_768;

/** What a binding may start and end at is rounded to this, so that vec4 arrays reach the last element. */
const VEC4_BYTES = 16;

/** A part of a buffer, ready to be bound. */
interface BoundRange {
  readonly buffer: PooledBuffer;
  readonly offset: number;
  readonly size: number;
}

/** What a {@linkcode CommandQueue} is made with. */
export interface CommandQueueOptions {
  readonly limits: DispatchLimits;
  readonly isSoftware: boolean;
  readonly features: KernelFeatures;
  /** What kernels start with where there are subgroups. */
  readonly subgroupDirective: string;
  /** Makes the workspace. */
  readonly createWorkspace: () => Tensor;
  /** Where passes leave their times, on devices that can time them. */
  readonly timestamps?: Timestamps;
}

/** The one queue of a device. */
export class CommandQueue implements Dispatcher {
  readonly limits: DispatchLimits;
  readonly isSoftware: boolean;
  readonly features: KernelFeatures;
  readonly subgroupLanes: number;
  readonly #createWorkspace: () => Tensor;
  readonly #device: GPUDevice;
  readonly #errors: DeviceErrors;
  readonly #timestamps?: Timestamps;
  readonly #pipelines: PipelineCache;
  readonly #slots: UniformSlots;
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  /** Keys of the bind groups of each buffer. */
  readonly #keysByBuffer = new Map<PooledBuffer, string[]>();
  #madeBindGroups = 0;
  /** Buffers that the batch uses. */
  readonly #used = new Set<PooledBuffer>();
  #workspace?: Tensor;
  #kernels: string[] = [];
  #encoder?: GPUCommandEncoder;
  #pass?: GPUComputePassEncoder;
  /** Pipeline that the open pass has. */
  #setPipeline?: GPUComputePipeline;
  /** Dynamic offset of a dispatch, in place of an array for each. */
  readonly #offset = new Uint32Array(1);

  /**
   * @param device device to encode for
   * @param errors where errors are remembered
   */
  constructor(device: GPUDevice, errors: DeviceErrors, options: CommandQueueOptions) {
    this.limits = options.limits;
    this.isSoftware = options.isSoftware;
    this.#createWorkspace = options.createWorkspace;
    this.features = options.features;
    this.subgroupLanes = subgroupLanes(device);
    this.#device = device;
    this.#errors = errors;
    this.#timestamps = options.timestamps;
    this.#pipelines = new PipelineCache(device, errors, options.features.subgroups ? options.subgroupDirective : "");
    this.#slots = new UniformSlots(device, BATCH_DISPATCHES);
  }

  /** Encodes one dispatch; see {@linkcode Dispatcher.run}. */
  run(call: KernelCall): void {
    this.#errors.check();
    checkGrid(call);
    const { kernel, code, tensors, params, workgroups } = call;
    const ranges = tensors.map(({ tensor }) => this.#range(call, tensor));
    if (workgroups.includes(0)) return;
    const pattern = bindingPattern(call, ranges);
    const { pipeline, layout } = this.#pipelines.get(kernel, code, pattern);
    const group = this.#bindGroup(call, pattern, layout, ranges);
    const pass = this.#openPass(kernel);
    if (pipeline !== this.#setPipeline) pass.setPipeline(this.#setPipeline = pipeline);
    if (params.length > 0) {
      this.#offset[0] = this.#slots.push(params);
      pass.setBindGroup(0, group, this.#offset, 0, 1);
    } else pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...workgroups);
    for (const { buffer } of ranges) this.#used.add(buffer);
    this.#finishCommand(kernel);
  }

  /** See {@linkcode Dispatcher.workspace}. */
  workspace(): Tensor {
    return this.#workspace ??= this.#createWorkspace();
  }

  /** Encodes commands other than dispatches, in order with them. `buffers` are the ones they use. */
  encode(name: string, buffers: readonly PooledBuffer[], encode: (encoder: GPUCommandEncoder) => void): void {
    this.#errors.check();
    const encoder = this.#openEncoder();
    this.#closePass();
    if (this.#timestamps?.perKernel) this.#timestamps.bracket(name, encoder, encode);
    else encode(encoder);
    for (const buffer of buffers) this.#used.add(buffer);
    this.#finishCommand(name);
  }

  /** Whether work that is not yet submitted uses a buffer. */
  uses(buffer: PooledBuffer): boolean {
    return this.#used.has(buffer);
  }

  /** Submits what is encoded. */
  flush(): void {
    if (!this.#encoder) return;
    const encoder = this.#encoder;
    const kernels = this.#kernels;
    this.#closePass();
    this.#timestamps?.resolve(encoder);
    this.#errors.noteWork(() => `while it ran ${summarize(kernels)}`);
    this.#errors.guard({ what: () => `run ${summarize(kernels)}` }, () => {
      this.#slots.upload();
      this.#device.queue.submit([encoder.finish()]);
    });
    this.#encoder = undefined;
    this.#kernels = [];
    this.#used.clear();
  }

  /** Forgets the bind groups of a buffer that is about to be destroyed, which they would keep alive. */
  forget(buffer: PooledBuffer): void {
    for (const key of this.#keysByBuffer.get(buffer) ?? []) this.#bindGroups.delete(key);
    this.#keysByBuffer.delete(buffer);
  }

  #range(call: KernelCall, tensor: Tensor): BoundRange {
    const { buffer } = storageOf(tensor);
    if (tensor.size === 0) return { buffer, offset: 0, size: VEC4_BYTES };
    const skip = residual(tensor);
    const bytesEach = elementBytes(tensor.dtype);
    const offset = (tensor.offset - skip) * bytesEach;
    const bytes = (skip + tensor.size) * bytesEach;
    if (bytes > this.limits.maxBindingBytes) {
      throw new RangeError(
        `Cannot run kernel ${describe(call)}: a tensor of shape [${tensor.shape}] takes ${bytes} bytes, ` +
          `a binding holds at most ${this.limits.maxBindingBytes}`,
      );
    }
    return { buffer, offset, size: Math.ceil(bytes / VEC4_BYTES) * VEC4_BYTES };
  }

  #bindGroup(
    call: KernelCall,
    pattern: string,
    layout: GPUBindGroupLayout,
    ranges: readonly BoundRange[],
  ): GPUBindGroup {
    let key = pattern;
    for (const { buffer, offset, size } of ranges) key += `,${buffer.id},${offset},${size}`;
    const known = this.#bindGroups.get(key);
    if (known) return known;
    const resources: GPUBufferBinding[] = ranges.map(({ buffer, offset, size }) => ({
      buffer: buffer.gpu,
      offset,
      size,
    }));
    if (call.params.length > 0) resources.push(this.#slots.binding);
    const { kernel } = call;
    const group = this.#errors.guard(
      { what: () => `bind the tensors of kernel ${describe(call)}`, kernel },
      () =>
        this.#device.createBindGroup({
          label: kernel,
          layout,
          entries: resources.map((resource, binding) => ({ binding, resource })),
        }),
    );
    this.#remember(key, group, ranges);
    return group;
  }

  #remember(key: string, group: GPUBindGroup, ranges: readonly BoundRange[]): void {
    if (++this.#madeBindGroups > MAX_BIND_GROUPS) {
      this.#bindGroups.clear();
      this.#keysByBuffer.clear();
      this.#madeBindGroups = 1;
    }
    this.#bindGroups.set(key, group);
    for (const { buffer } of ranges) {
      const keys = this.#keysByBuffer.get(buffer);
      if (keys) keys.push(key);
      else this.#keysByBuffer.set(buffer, [key]);
    }
  }

  #openEncoder(): GPUCommandEncoder {
    return this.#encoder ??= this.#device.createCommandEncoder();
  }

  #openPass(kernel: string): GPUComputePassEncoder {
    if (this.#pass) return this.#pass;
    const timestampWrites = this.#timestamps?.writes(kernel);
    return this.#pass = this.#openEncoder().beginComputePass(timestampWrites ? { timestampWrites } : undefined);
  }

  #closePass(): void {
    this.#pass?.end();
    this.#pass = undefined;
    this.#setPipeline = undefined;
  }

  #finishCommand(name: string): void {
    if (this.#timestamps?.perKernel) this.#closePass();
    if (this.#kernels.push(name) >= BATCH_DISPATCHES) this.flush();
  }
}

function subgroupLanes({ features, adapterInfo }: GPUDevice): number {
  const { subgroupMinSize, subgroupMaxSize } = adapterInfo;
  return features.has("subgroups") && subgroupMinSize === subgroupMaxSize ? subgroupMinSize : 0;
}

function checkGrid(call: KernelCall): void {
  const { workgroups, params } = call;
  if (!workgroups.every((count) => Number.isInteger(count) && count >= 0 && count <= MAX_WORKGROUPS_PER_DIM)) {
    throw new RangeError(
      `Cannot run kernel ${describe(call)} on a grid of ${workgroups.join(" × ")} workgroups: ` +
        `each number must be an integer from 0 to ${MAX_WORKGROUPS_PER_DIM}`,
    );
  }
  if (params.length > MAX_PARAMS) {
    throw new RangeError(
      `Cannot run kernel ${describe(call)} with ${params.length} params: at most ${MAX_PARAMS} fit`,
    );
  }
  for (const param of params) {
    if (typeof param === "number" && param !== param >>> 0) {
      throw new RangeError(`Cannot run kernel ${describe(call)} with the param ${param}: it must be a u32`);
    }
  }
}

/** Letters of {@linkcode BindingPattern}; a buffer that the call writes anywhere is bound as written everywhere. */
function bindingPattern(call: KernelCall, ranges: readonly BoundRange[]): string {
  let pattern = "";
  for (let i = 0; i < ranges.length; i++) {
    const written = ranges.some(({ buffer }, j) =>
      buffer === ranges[i].buffer && call.tensors[j].access === "read_write"
    );
    pattern += written ? "w" : "r";
  }
  return call.params.length > 0 ? pattern + "u" : pattern;
}

function describe({ kernel, tensors }: KernelCall): string {
  return `${kernel} (${tensors.map(({ tensor }) => `[${tensor.shape}]`).join(", ")})`;
}

/** Kernels and how often each, in order of first use. */
function summarize(kernels: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const kernel of kernels) counts.set(kernel, (counts.get(kernel) ?? 0) + 1);
  return Array.from(counts, ([kernel, count]) => count > 1 ? `${kernel} ×${count}` : kernel).join(", ");
}
