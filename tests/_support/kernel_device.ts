/**
 * A GPU for tests that launch kernels themselves, past the choices that the ops make.
 *
 * @module
 */

import { DeviceErrors } from "../../packages/core/backend/webgpu/device_error.ts";
import { CommandQueue } from "../../packages/core/backend/webgpu/command_queue.ts";
import type { DispatchLimits } from "../../packages/core/backend/webgpu/dispatch.ts";
import { Readback } from "../../packages/core/backend/webgpu/readback.ts";
import { requestDevice } from "../../packages/core/backend/webgpu/request_device.ts";
import { storageOf, type StorageOwner, WebGpuStorage } from "../../packages/core/backend/webgpu/webgpu_storage.ts";
import { Ledger } from "../../packages/core/memory/ledger.ts";
import type { Shape } from "../../packages/core/tensor/shape.ts";
import { Tensor } from "../../packages/core/tensor/tensor.ts";

/** A device, a dispatcher on it, and tensors in buffers of their own. */
export class KernelDevice implements StorageOwner, AsyncDisposable {
  readonly ledger: Ledger = new Ledger();
  readonly offsetAlignmentElements: number;
  readonly dispatcher: CommandQueue;
  readonly #device: GPUDevice;
  readonly #errors: DeviceErrors;
  readonly #readback: Readback;
  readonly #views: Tensor[] = [];
  #buffers = 0;

  private constructor(device: GPUDevice, isSoftware: boolean, limits: DispatchLimits) {
    this.offsetAlignmentElements = limits.offsetAlignmentElements;
    this.#device = device;
    this.#errors = new DeviceErrors(device);
    this.dispatcher = new CommandQueue(device, this.#errors, { limits, isSoftware });
    this.#readback = new Readback(device, this.dispatcher, this.#errors);
  }

  /** Opens the device with its own limits, or with what is given of others. */
  static async open(limits: Partial<DispatchLimits> = {}): Promise<KernelDevice> {
    const { device, isSoftware } = await requestDevice({ gpu: navigator.gpu, profile: false });
    return new KernelDevice(device, isSoftware, {
      maxBindingBytes: Math.floor(device.limits.maxStorageBufferBindingSize / 16) * 16,
      maxWorkgroupMemoryBytes: device.limits.maxComputeWorkgroupStorageSize,
      maxInvocations: device.limits.maxComputeInvocationsPerWorkgroup,
      maxStorageBuffers: device.limits.maxStorageBuffersPerShaderStage,
      offsetAlignmentElements: Math.max(16, device.limits.minStorageBufferOffsetAlignment) / 4,
      maxLoopTurns: isSoftware ? 65_535 : Infinity,
      ...limits,
    });
  }

  /** A tensor with `data`, behind `shift` elements that hold NaN. The device frees it at the end. */
  tensor(data: Float32Array, shape: Shape, shift = 0): Tensor {
    const bytes = 4 * (shift + data.length);
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const gpu = this.#device.createBuffer({
      size,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    const padded = new Float32Array(size / 4).fill(NaN);
    padded.set(data, shift);
    this.#device.queue.writeBuffer(gpu, 0, padded);
    const storage = new WebGpuStorage(this, { gpu, id: this.#buffers++, bytes: size }, bytes, "scratch");
    const tensor = new Tensor(storage, shape, "f32", shift);
    this.#views.push(tensor);
    return tensor;
  }

  /** Waits for the kernels and copies a tensor to the host. */
  async read(tensor: Tensor): Promise<Float32Array> {
    const range = { buffer: storageOf(tensor).buffer, offset: 4 * tensor.offset, bytes: tensor.bytes };
    return new Float32Array((await this.#readback.read([range]))[0]);
  }

  /** Waits for the kernels. */
  async sync(): Promise<void> {
    await this.#readback.wait();
  }

  reclaim(buffer: { readonly gpu: GPUBuffer }): void {
    buffer.gpu.destroy();
  }

  // deno-lint-ignore require-await
  async [Symbol.asyncDispose](): Promise<void> {
    for (const view of this.#views) if (!view.freed) view.free();
    this.#errors.close();
    this.#device.destroy();
  }
}
