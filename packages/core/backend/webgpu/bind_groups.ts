/**
 * What calls bind, and the bind groups made for it: what a step of training binds, the next one binds, too.
 *
 * @module
 */

import { elementBytes } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { PooledBuffer } from "./buffer_pool.ts";
import type { DeviceErrors } from "./device_error.ts";
import { describeCall, type KernelCall, residual } from "./dispatch.ts";
import { appendBinding, type BindingPattern, NO_BINDINGS } from "./pipeline_cache.ts";
import { storageOf } from "./webgpu_storage.ts";

/**
 * Bind groups that are made before all are forgotten. Making one takes a GPU's driver about ten times as long as the
 * rest of a dispatch, and a step of training asks for the same thousands of them every time.
 */
const MAX_BIND_GROUPS = 32_768;

/** What a binding may start and end at is rounded to this, so that vec4 arrays reach the last element. */
const VEC4_BYTES = 16;

/** A part of a buffer that is bound. */
interface BoundRange {
  buffer: PooledBuffer;
  offset: number;
  size: number;
}

/** A bind group and what is in it. */
interface KnownGroup {
  readonly group: GPUBindGroup;
  readonly hash: number;
  readonly pattern: BindingPattern;
  readonly ranges: readonly Readonly<BoundRange>[];
}

/**
 * The tensors of one call at a time as parts of buffers. The ranges of the call before are overwritten, and numbers stand
 * for what is bound, since a step of training makes ten thousands of calls: objects and text for each would take longer
 * than all else that encodes it.
 */
export class BoundTensors {
  readonly #maxBindingBytes: number;
  readonly #ranges: BoundRange[] = [];
  #count = 0;
  #pattern = NO_BINDINGS;
  #hash = 0;

  /** @param maxBindingBytes largest binding */
  constructor(maxBindingBytes: number) {
    this.#maxBindingBytes = maxBindingBytes;
  }

  /** Number of tensors. */
  get count(): number {
    return this.#count;
  }

  /** How each is bound; a buffer that the call writes anywhere is bound as written everywhere. */
  get pattern(): BindingPattern {
    return this.#pattern;
  }

  /** A number for what is bound and how, which differs for nearly all that differ. */
  get hash(): number {
    return this.#hash;
  }

  /** The part of a buffer that a tensor of the call is in. */
  range(index: number): Readonly<BoundRange> {
    return this.#ranges[index];
  }

  /**
   * Takes the tensors of a call.
   *
   * @throws {RangeError} when a tensor does not fit a binding
   * @throws {ReferenceError} when a tensor has been freed
   */
  take(call: KernelCall): void {
    const { tensors, params } = call;
    this.#count = tensors.length;
    for (let i = 0; i < tensors.length; i++) this.#place(call, tensors[i].tensor, i);
    let pattern = NO_BINDINGS;
    let hash = 0;
    for (let i = 0; i < tensors.length; i++) {
      const { buffer, offset, size } = this.#ranges[i];
      pattern = appendBinding(pattern, this.#isWritten(call, buffer) ? "w" : "r");
      hash = mix(mix(mix(hash, buffer.id), offset), size);
    }
    this.#pattern = params.length > 0 ? appendBinding(pattern, "u") : pattern;
    this.#hash = mix(hash, this.#pattern);
  }

  #place(call: KernelCall, tensor: Tensor, index: number): void {
    const { buffer } = storageOf(tensor);
    const range = this.#ranges[index] ??= { buffer, offset: 0, size: VEC4_BYTES };
    range.buffer = buffer;
    const count = tensor.size;
    const skip = count === 0 ? 0 : residual(tensor);
    const bytesEach = elementBytes(tensor.dtype);
    const bytes = (skip + count) * bytesEach;
    if (bytes > this.#maxBindingBytes) {
      throw new RangeError(
        `Cannot run kernel ${describeCall(call)}: a tensor of shape [${tensor.shape}] takes ${bytes} bytes, ` +
          `a binding holds at most ${this.#maxBindingBytes}`,
      );
    }
    range.offset = count === 0 ? 0 : (tensor.offset - skip) * bytesEach;
    range.size = count === 0 ? VEC4_BYTES : Math.ceil(bytes / VEC4_BYTES) * VEC4_BYTES;
  }

  #isWritten({ tensors }: KernelCall, buffer: PooledBuffer): boolean {
    for (let i = 0; i < tensors.length; i++) {
      if (tensors[i].access === "read_write" && this.#ranges[i].buffer === buffer) return true;
    }
    return false;
  }
}

/** The bind groups of a device. */
export class BindGroups {
  readonly #device: GPUDevice;
  readonly #errors: DeviceErrors;
  readonly #uniform: GPUBufferBinding;
  /** By hash; the few that have one in common displace one another. */
  readonly #groups = new Map<number, KnownGroup>();
  readonly #byBuffer = new Map<PooledBuffer, KnownGroup[]>();
  #made = 0;

  /**
   * @param device device to make them for
   * @param errors where errors are remembered
   * @param uniform what follows the tensors of calls with params
   */
  constructor(device: GPUDevice, errors: DeviceErrors, uniform: GPUBufferBinding) {
    this.#device = device;
    this.#errors = errors;
    this.#uniform = uniform;
  }

  /** The bind group of a call whose tensors `bound` has taken. */
  get(call: KernelCall, bound: BoundTensors, layout: GPUBindGroupLayout): GPUBindGroup {
    const known = this.#groups.get(bound.hash);
    return known && holds(known, bound) ? known.group : this.#make(call, bound, layout);
  }

  /** Forgets the bind groups of a buffer that is about to be destroyed, which they would keep alive. */
  forget(buffer: PooledBuffer): void {
    for (const known of this.#byBuffer.get(buffer) ?? []) {
      if (this.#groups.get(known.hash) === known) this.#groups.delete(known.hash);
    }
    this.#byBuffer.delete(buffer);
  }

  #make(call: KernelCall, bound: BoundTensors, layout: GPUBindGroupLayout): GPUBindGroup {
    const ranges = Array.from({ length: bound.count }, (_, i) => ({ ...bound.range(i) }));
    const resources: GPUBufferBinding[] = ranges.map(({ buffer, offset, size }) => ({
      buffer: buffer.gpu,
      offset,
      size,
    }));
    if (call.params.length > 0) resources.push(this.#uniform);
    const { kernel } = call;
    const group = this.#errors.guard(
      { what: () => `bind the tensors of kernel ${describeCall(call)}`, kernel },
      () =>
        this.#device.createBindGroup({
          label: kernel,
          layout,
          entries: resources.map((resource, binding) => ({ binding, resource })),
        }),
    );
    this.#remember({ group, hash: bound.hash, pattern: bound.pattern, ranges });
    return group;
  }

  #remember(known: KnownGroup): void {
    if (++this.#made > MAX_BIND_GROUPS) {
      this.#groups.clear();
      this.#byBuffer.clear();
      this.#made = 1;
    }
    this.#groups.set(known.hash, known);
    for (const { buffer } of known.ranges) {
      const groups = this.#byBuffer.get(buffer);
      if (groups) groups.push(known);
      else this.#byBuffer.set(buffer, [known]);
    }
  }
}

function holds({ pattern, ranges }: KnownGroup, bound: BoundTensors): boolean {
  if (pattern !== bound.pattern) return false;
  for (let i = 0; i < ranges.length; i++) {
    const known = ranges[i];
    const { buffer, offset, size } = bound.range(i);
    if (known.buffer !== buffer || known.offset !== offset || known.size !== size) return false;
  }
  return true;
}

/** Mixes a number into a hash of 32 bits. */
function mix(hash: number, value: number): number {
  const mixed = Math.imul(hash ^ value, 0x9e3779b1);
  return mixed ^ (mixed >>> 15);
}
