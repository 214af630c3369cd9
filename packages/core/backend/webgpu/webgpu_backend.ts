/**
 * The backend on WebGPU: Deno's own implementation, or any other that offers the standard API.
 *
 * @module
 */

import { Ledger } from "../../memory/ledger.ts";
import { checkPairs, type DType, ELEMENT_BYTES, elementBytes, elementCount, type Shape } from "../../tensor/shape.ts";
import { type MemoryTag, Tensor } from "../../tensor/tensor.ts";
import type { Backend, HostData, KernelTime } from "../backend.ts";
import type { Ops } from "../ops.ts";
import { BufferPool, type PooledBuffer } from "./buffer_pool.ts";
import { BATCH_DISPATCHES, CommandQueue } from "./command_queue.ts";
import { DeviceErrors } from "./device_error.ts";
import { type Dispatcher, type DispatchLimits, WORKSPACE_BYTES } from "./dispatch.ts";
import { checkRead, deviceData, hostNumbers } from "./host_data.ts";
import { dawnProvider, denoProvider, type Provider, type WebGpuProvider } from "./provider.ts";
import { CopyMapping, MemoryMapping } from "./read_mapping.ts";
import { Readback } from "./readback.ts";
import { type OpenDevice, requestDevice } from "./request_device.ts";
import { Timestamps } from "./timestamps.ts";
import { WebGpuOps } from "./webgpu_ops.ts";
import { storageOf, type StorageOwner, WebGpuStorage } from "./webgpu_storage.ts";
import { QueueWrites, StagedWrites, type Writes } from "./writes.ts";

/** Turns after which Mesa's llvmpipe leaves the loops of an invocation, a guard of its own against endless ones. */
const SOFTWARE_LOOP_TURNS = 65_535;

/** How to make a {@linkcode createWebGpuBackend}. */
export interface WebGpuOptions {
  /** Time every kernel; see `Backend.takeProfile`. Slows down small kernels. Default false. */
  readonly profile?: boolean;
  /** Treat bindings as no larger than this, at least 1024 bytes. Default: what the device allows. */
  readonly maxBindingBytes?: number;
  /** What the kernels are chosen and laid out for, whatever the device is. Default: what the device is. */
  readonly kernelsFor?: "gpu" | "software";
  /** Bytes of tensors that may be live at a time; what is reserved beside them does not count. Default: any number. */
  readonly memoryBudgetBytes?: number;
  /** Implementation of WebGPU. Default `deno`. */
  readonly provider?: WebGpuProvider;
  /** What stands for `navigator.gpu` with the provider `deno`. */
  readonly gpu?: GPU;
}

/**
 * Opens the fastest GPU as a backend. Disposing of it gives the device back; its tensors are then lost.
 *
 * @throws {NoGpuError} when there is no driver, or the provider is not installed
 * @throws {DeviceError} when the device cannot be opened, or cannot time kernels and `profile` is set
 * @throws {RangeError} when `maxBindingBytes` is below 1024, or `memoryBudgetBytes` negative
 */
export async function createWebGpuBackend(options: WebGpuOptions = {}): Promise<WebGpuBackend> {
  const { profile = false, maxBindingBytes = Infinity, gpu } = options;
  if (!(maxBindingBytes >= 1024)) {
    throw new RangeError(`Cannot use bindings of ${maxBindingBytes} bytes: at least 1024 are needed`);
  }
  const provider = options.provider === "dawn" ? await dawnProvider() : denoProvider(gpu);
  return new WebGpuBackend(await requestDevice({ provider, profile }), options);
}

/** A backend on a WebGPU device; made by {@linkcode createWebGpuBackend}. */
export class WebGpuBackend implements Backend, StorageOwner {
  readonly name = "webgpu";
  readonly deviceName: string;
  readonly isSoftware: boolean;
  readonly ledger: Ledger;
  readonly ops: Ops;
  readonly offsetAlignmentBytes: number;
  readonly #device: GPUDevice;
  /** The implementation of WebGPU, which lives as long as its device. */
  readonly provider: Provider;
  readonly #errors: DeviceErrors;
  readonly #pool: BufferPool;
  readonly #queue: CommandQueue;
  readonly #readback: Readback;
  readonly #writes: Writes;
  readonly #timestamps?: Timestamps;

  /**
   * @param opened device, which the backend owns from here on
   * @param options as for {@linkcode createWebGpuBackend}
   */
  constructor({ device, deviceName, isSoftware, features, provider }: OpenDevice, options: WebGpuOptions) {
    const { profile = false, maxBindingBytes = Infinity, memoryBudgetBytes } = options;
    this.ledger = new Ledger({ budgetBytes: memoryBudgetBytes });
    const limits = dispatchLimits(device, isSoftware, maxBindingBytes);
    const kernelsFor = options.kernelsFor ?? (isSoftware ? "software" : "gpu");
    this.deviceName = deviceName;
    this.isSoftware = isSoftware;
    this.offsetAlignmentBytes = limits.offsetAlignmentBytes;
    this.#device = device;
    this.provider = provider;
    const mapping = provider.mapsMemory ? new MemoryMapping() : new CopyMapping();
    this.#errors = new DeviceErrors(device);
    this.#timestamps = device.features.has("timestamp-query")
      ? new Timestamps(device, mapping, BATCH_DISPATCHES, profile)
      : undefined;
    this.#queue = new CommandQueue(device, this.#errors, {
      limits,
      isSoftware: kernelsFor === "software",
      features,
      subgroupDirective: provider.subgroupDirective,
      setGroup: provider.setGroup,
      createWorkspace: () => this.#createWorkspace(),
      timestamps: this.#timestamps,
    });
    this.#pool = new BufferPool({
      maxBufferBytes: device.limits.maxBufferSize,
      create: (bytes, what) => this.#createBuffer(bytes, what),
      destroy: (buffer) => this.#destroyBuffer(buffer),
    });
    this.#readback = new Readback(device, this.#queue, this.#errors, { mapping });
    this.#writes = provider.mapsMemory ? new StagedWrites(device) : new QueueWrites(device.queue);
    this.ops = new WebGpuOps(this.#queue);
  }

  /** Runs kernels of one's own on the tensors of the backend. */
  get dispatcher(): Dispatcher {
    return this.#queue;
  }

  get peakReservedBytes(): number {
    return this.#pool.peakReservedBytes;
  }

  empty(shape: Shape, tag: MemoryTag, dtype: DType = "f32"): Tensor {
    this.#errors.check();
    checkPairs(shape, dtype);
    const bytes = elementCount(shape) * elementBytes(dtype);
    this.ledger.assertWithinBudget(tag, bytes);
    const buffer = this.#pool.acquire(bytes, () => `allocate a ${tag} tensor of shape [${shape}] (${bytes} bytes)`);
    return new Tensor(new WebGpuStorage(this, buffer, bytes, tag), shape, dtype);
  }

  write(tensor: Tensor, data: HostData): void {
    this.#errors.check();
    const { buffer } = storageOf(tensor);
    const written = deviceData(tensor, data);
    // What the queue writes is done before the batch that is still open.
    if (this.#queue.uses(buffer)) this.#queue.flush();
    const bytes = new Uint8Array(written.buffer, written.byteOffset, written.byteLength);
    this.#errors.guard({ what: () => `write a tensor of shape [${tensor.shape}]` }, () => {
      this.#writes.write(buffer.gpu, tensor.offset * written.BYTES_PER_ELEMENT, bytes);
    });
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    return (await this.readAll([tensor]))[0];
  }

  async readAll(
    tensors: readonly Tensor[],
    into?: readonly Float32Array[],
    onRead?: (index: number) => void,
  ): Promise<Float32Array[]> {
    return await this.readLater(tensors, into, onRead)();
  }

  readLater(
    tensors: readonly Tensor[],
    into?: readonly Float32Array[],
    onRead?: (index: number) => void,
  ): () => Promise<Float32Array[]> {
    this.#errors.check();
    const ranges = tensors.map((tensor, i) => {
      const { buffer } = storageOf(tensor);
      checkRead(tensor, into?.[i]);
      return { buffer, offset: tensor.offset * elementBytes(tensor.dtype), bytes: tensor.bytes };
    });
    const { bytes, results, arrived } = hostNumbers(tensors, into);
    const take = this.#readback.stage(ranges, bytes, (index, of) => {
      arrived(index, of);
      onRead?.(index);
    });
    return async () => {
      await this.provider.waitFor(take());
      return results();
    };
  }

  flush(): void {
    this.#errors.check();
    this.#queue.flush();
  }

  async sync(): Promise<void> {
    this.#errors.check();
    await this.provider.waitFor(this.#readback.wait());
  }

  async takeProfile(): Promise<KernelTime[]> {
    await this.#collectTimes();
    return this.#timestamps?.take() ?? [];
  }

  async takeBusyMs(): Promise<number | undefined> {
    await this.#collectTimes();
    return this.#timestamps?.takeBusyMs();
  }

  async #collectTimes(): Promise<void> {
    this.#errors.check();
    this.#queue.flush();
    if (!this.#timestamps) return await this.provider.waitFor(this.#readback.wait());
    await this.provider.waitFor(this.#timestamps.collect());
    await this.provider.waitFor(this.#errors.settle());
  }

  reclaim(buffer: PooledBuffer): void {
    this.#pool.release(buffer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#errors.closed) return;
    this.#errors.close();
    this.#pool.destroyAll();
    this.#readback.destroyAll();
    this.#writes.destroyAll();
    // Memory of destroyed buffers comes back when the device has done what uses them, and only while it exists.
    if (!this.#errors.lost) await this.provider.waitFor(this.#device.queue.onSubmittedWorkDone());
    this.#device.destroy();
  }

  /** Outside the ledger: see `Dispatcher.workspace`. */
  #createWorkspace(): Tensor {
    const buffer = this.#pool.acquire(WORKSPACE_BYTES, () => `allocate a workspace of ${WORKSPACE_BYTES} bytes`);
    const owner = {
      ledger: new Ledger(),
      offsetAlignmentBytes: this.offsetAlignmentBytes,
      reclaim: (buffer: PooledBuffer) => this.#pool.release(buffer),
    };
    return new Tensor(new WebGpuStorage(owner, buffer, WORKSPACE_BYTES, "scratch"), [WORKSPACE_BYTES / ELEMENT_BYTES]);
  }

  #createBuffer(bytes: number, what: () => string): GPUBuffer {
    return this.#errors.guard({ what }, () =>
      this.#device.createBuffer({
        size: bytes,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
      }));
  }

  #destroyBuffer(buffer: PooledBuffer): void {
    if (this.#queue.uses(buffer)) this.#queue.flush();
    this.#queue.forget(buffer);
    buffer.gpu.destroy();
  }
}

function dispatchLimits({ limits }: GPUDevice, isSoftware: boolean, maxBindingBytes: number): DispatchLimits {
  return {
    maxBindingBytes: Math.floor(Math.min(maxBindingBytes, limits.maxStorageBufferBindingSize) / 16) * 16,
    maxWorkgroupMemoryBytes: limits.maxComputeWorkgroupStorageSize,
    maxInvocations: limits.maxComputeInvocationsPerWorkgroup,
    maxStorageBuffers: limits.maxStorageBuffersPerShaderStage,
    offsetAlignmentBytes: Math.max(16, limits.minStorageBufferOffsetAlignment),
    maxLoopTurns: isSoftware ? SOFTWARE_LOOP_TURNS : Infinity,
  };
}
