/**
 * The contract of a compute backend: device memory, transfers and {@linkcode Ops}.
 *
 * @module
 */

import type { Ledger } from "../memory/ledger.ts";
import type { DType, Shape } from "../tensor/shape.ts";
import type { MemoryTag, Tensor } from "../tensor/tensor.ts";
import type { Ops } from "./ops.ts";

/** Time spent in one kernel, added up over its dispatches. */
export interface KernelTime {
  /** Kernel and variant, such as `matmul NT 64x64`. */
  readonly kernel: string;
  /** Number of dispatches. */
  readonly dispatches: number;
  /** Time on the device, in milliseconds. */
  readonly totalMs: number;
}

/** Host data that a tensor is written with: f32 numbers, ids, or the bits of numbers of 16 bits. */
export type HostData = Float32Array | Uint32Array | Uint16Array;

/**
 * A device that tensors live on and ops run on.
 *
 * Ops and `write` take effect in the order they are called; none of them waits for the device. Waiting, and the
 * reporting of errors of the device, happens in `read`, `readAll` and `sync`.
 */
export interface Backend extends AsyncDisposable {
  /** Which implementation this is. */
  readonly name: "reference" | "webgpu";
  /** The device in words, such as the name of the GPU. */
  readonly deviceName: string;
  /** Whether the device computes on the CPU (the reference, or a software GPU driver). */
  readonly isSoftware: boolean;
  /** Live and peak bytes by tag, and the budget that `empty` keeps to. */
  readonly ledger: Ledger;
  /** Bytes reserved from the device at most so far: the ledger's peak plus what the buffer pool keeps or rounds up. */
  readonly peakReservedBytes: number;
  /** The kernels. */
  readonly ops: Ops;
  /**
   * Allocates a tensor of undefined contents, owned by the caller.
   *
   * @throws {MemoryBudgetError} when live bytes would exceed the budget of the ledger
   * @throws {RangeError} when the device has no buffer of that size
   */
  empty(shape: Shape, tag: MemoryTag, dtype?: DType): Tensor;
  /**
   * Copies host data into a tensor; the data is read before the call returns. Numbers for a tensor of f16 or bf16 are
   * rounded to the nearest, ties to even; a Uint16Array holds its bits. `Tensor.words` moves bytes as they are.
   *
   * @throws {RangeError} when there are more or fewer elements than the tensor has
   * @throws {TypeError} when the tensor has another element type
   */
  write(tensor: Tensor, data: HostData): void;
  /**
   * Copies a tensor of numbers to the host as it is at the time of the call, once the ops before it are done; as f32
   * whatever floats it holds.
   */
  read(tensor: Tensor): Promise<Float32Array>;
  /**
   * As `read` for several tensors, waiting once.
   *
   * @param into arrays of the tensors' sizes to copy to, which may lie in shared memory, and to return; fresh ones by
   * default. Memory that is used again is several times faster to copy to than fresh memory.
   * @param onRead called with the number of each tensor as soon as its values are there, while others are still copied
   * @throws {RangeError} when an array is not as long as its tensor
   */
  readAll(
    tensors: readonly Tensor[],
    into?: readonly Float32Array[],
    onRead?: (index: number) => void,
  ): Promise<Float32Array[]>;
  /** As `readAll`, of the tensors as they are now, but nothing waits until the function that is returned is called, once. */
  readLater(
    tensors: readonly Tensor[],
    into?: readonly Float32Array[],
    onRead?: (index: number) => void,
  ): () => Promise<Float32Array[]>;
  /** Hands encoded work to the device without waiting for it. */
  flush(): void;
  /** Flushes and waits until the device has nothing left to do. */
  sync(): Promise<void>;
  /**
   * Flushes, waits, and tells for how long the device has computed since the last call, in milliseconds; undefined where
   * it cannot tell.
   */
  takeBusyMs(): Promise<number | undefined>;
  /** Times per kernel since the last call, longest first; empty unless the backend was made with profiling on. */
  takeProfile(): Promise<KernelTime[]>;
}

/**
 * Allocates a tensor and fills it with host data; owned by the caller.
 *
 * @param dtype element type; by default u32 for a Uint32Array, f16 for the bits in a Uint16Array, f32 otherwise
 */
export function tensorFrom(
  backend: Backend,
  data: HostData,
  shape: Shape,
  tag: MemoryTag,
  dtype: DType = data instanceof Uint32Array ? "u32" : data instanceof Uint16Array ? "f16" : "f32",
): Tensor {
  const tensor = backend.empty(shape, tag, dtype);
  backend.write(tensor, data);
  return tensor;
}

/** Allocates a tensor of zeros, f32 unless told otherwise; owned by the caller. */
export function zeros(backend: Backend, shape: Shape, tag: MemoryTag, dtype: DType = "f32"): Tensor {
  const tensor = backend.empty(shape, tag, dtype);
  backend.ops.fill(tensor, 0);
  return tensor;
}
