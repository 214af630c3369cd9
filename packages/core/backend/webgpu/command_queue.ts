/**
 * Collects dispatches and copies into batches and hands them to the device.
 *
 * @module
 */

import type { Tensor } from "../../tensor/tensor.ts";
import { BindGroups, BoundTensors } from "./bind_groups.ts";
import type { PooledBuffer } from "./buffer_pool.ts";
import type { DeviceErrors } from "./device_error.ts";
import {
  describeCall,
  type Dispatcher,
  type DispatchLimits,
  type KernelCall,
  type KernelFeatures,
  MAX_PARAMS,
  MAX_WORKGROUPS_PER_DIM,
} from "./dispatch.ts";
import { PipelineCache } from "./pipeline_cache.ts";
import type { SetGroup } from "./provider.ts";
import type { Timestamps } from "./timestamps.ts";
import { UniformSlots } from "./uniform_slots.ts";

/** Dispatches after which a batch is submitted, so that the device starts early. */
export const BATCH_DISPATCHES = 256;

/** What a {@linkcode CommandQueue} is made with. */
export interface CommandQueueOptions {
  readonly limits: DispatchLimits;
  readonly isSoftware: boolean;
  readonly features: KernelFeatures;
  /** What kernels start with where there are subgroups. */
  readonly subgroupDirective: string;
  /** See `Provider.setGroup`. */
  readonly setGroup: SetGroup;
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
  readonly #setGroup: SetGroup;
  readonly #device: GPUDevice;
  readonly #errors: DeviceErrors;
  readonly #timestamps?: Timestamps;
  readonly #pipelines: PipelineCache;
  readonly #slots: UniformSlots;
  /** Tensors of the call that is being encoded. */
  readonly #bound: BoundTensors;
  readonly #bindGroups: BindGroups;
  /** Buffers that the batch uses. */
  readonly #used = new Set<PooledBuffer>();
  #workspace?: Tensor;
  #kernels: string[] = [];
  #encoder?: GPUCommandEncoder;
  #pass?: GPUComputePassEncoder;
  /** Pipeline that the open pass has. */
  #setPipeline?: GPUComputePipeline;

  /**
   * @param device device to encode for
   * @param errors where errors are remembered
   */
  constructor(device: GPUDevice, errors: DeviceErrors, options: CommandQueueOptions) {
    this.limits = options.limits;
    this.isSoftware = options.isSoftware;
    this.#createWorkspace = options.createWorkspace;
    this.#setGroup = options.setGroup;
    this.features = options.features;
    this.subgroupLanes = subgroupLanes(device);
    this.#device = device;
    this.#errors = errors;
    this.#timestamps = options.timestamps;
    this.#pipelines = new PipelineCache(device, errors, options.features.subgroups ? options.subgroupDirective : "");
    this.#slots = new UniformSlots(device, BATCH_DISPATCHES);
    this.#bound = new BoundTensors(options.limits.maxBindingBytes);
    this.#bindGroups = new BindGroups(device, errors, this.#slots.binding);
  }

  /** Encodes one dispatch; see {@linkcode Dispatcher.run}. */
  run(call: KernelCall): void {
    this.#errors.check();
    checkGrid(call);
    const { kernel, code, params, workgroups: [x, y, z] } = call;
    const bound = this.#bound;
    bound.take(call);
    if (x === 0 || y === 0 || z === 0) return;
    const { pipeline, layout } = this.#pipelines.get(kernel, code, bound.pattern);
    const group = this.#bindGroups.get(call, bound, layout);
    const pass = this.#openPass(kernel);
    if (pipeline !== this.#setPipeline) pass.setPipeline(this.#setPipeline = pipeline);
    if (params.length > 0) this.#setGroup(pass, group, this.#slots.push(params));
    else pass.setBindGroup(0, group);
    // Dawn takes a quarter of a microsecond for every number that it is handed.
    if (y === 1 && z === 1) pass.dispatchWorkgroups(x);
    else pass.dispatchWorkgroups(x, y, z);
    for (let i = 0; i < bound.count; i++) this.#used.add(bound.range(i).buffer);
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
    this.#bindGroups.forget(buffer);
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
  const [x, y, z] = workgroups;
  if (!isGridDim(x) || !isGridDim(y) || !isGridDim(z)) {
    throw new RangeError(
      `Cannot run kernel ${describeCall(call)} on a grid of ${workgroups.join(" × ")} workgroups: ` +
        `each number must be an integer from 0 to ${MAX_WORKGROUPS_PER_DIM}`,
    );
  }
  if (params.length > MAX_PARAMS) {
    throw new RangeError(
      `Cannot run kernel ${describeCall(call)} with ${params.length} params: at most ${MAX_PARAMS} fit`,
    );
  }
  for (let i = 0; i < params.length; i++) {
    const param = params[i];
    if (typeof param === "number" && param !== param >>> 0) {
      throw new RangeError(`Cannot run kernel ${describeCall(call)} with the param ${param}: it must be a u32`);
    }
  }
}

function isGridDim(count: number): boolean {
  return Number.isInteger(count) && count >= 0 && count <= MAX_WORKGROUPS_PER_DIM;
}

/** Kernels and how often each, in order of first use. */
function summarize(kernels: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const kernel of kernels) counts.set(kernel, (counts.get(kernel) ?? 0) + 1);
  return Array.from(counts, ([kernel, count]) => count > 1 ? `${kernel} ×${count}` : kernel).join(", ");
}
