/**
 * The reference backend: every op in plain TypeScript on the CPU. It is the oracle that other backends are tested
 * against, and what training runs on where there is no GPU driver.
 *
 * @module
 */

import { Ledger } from "../../memory/ledger.ts";
import { writeHalves } from "../../tensor/half.ts";
import { checkPairs, type DType, elementCount, type Shape } from "../../tensor/shape.ts";
import { type MemoryTag, Tensor } from "../../tensor/tensor.ts";
import type { Backend, HostData, KernelTime } from "../backend.ts";
import type { Ops } from "../ops.ts";
import { OpTimer } from "./op_timer.ts";
import { ReferenceOps } from "./reference_ops.ts";
import { elementsOf, HostStorage, numbersOf } from "./storage.ts";

/** What fresh tensors hold with `poison`: NaN, or no id, position or label that a test would use. */
const POISON = { f32: 0x7fc00000, f16: 0x7e007e00, bf16: 0x7fc07fc0, u32: 0xdeadbeef };

/** Options of {@linkcode createReferenceBackend}. */
export interface ReferenceBackendOptions {
  /** Fill fresh tensors with NaN or 0xdeadbeef, so that reading undefined contents shows. Default false: zeros. */
  poison?: boolean;
  /** Measure the wall time of every op. Default false. */
  profile?: boolean;
  /** Bytes of tensors that may be live at a time. Default: any number. */
  memoryBudgetBytes?: number;
}

/**
 * Makes a backend that computes on the CPU in the calling thread.
 *
 * @throws {RangeError} when `memoryBudgetBytes` is negative
 */
export function createReferenceBackend(options: ReferenceBackendOptions = {}): Backend {
  return new ReferenceBackend(options);
}

class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly deviceName = "CPU reference";
  readonly isSoftware = true;
  readonly ledger: Ledger;
  readonly ops: Ops;
  readonly #timer: OpTimer;
  readonly #poison: boolean;

  constructor({ poison = false, profile = false, memoryBudgetBytes }: ReferenceBackendOptions) {
    this.ledger = new Ledger({ budgetBytes: memoryBudgetBytes });
    this.#timer = new OpTimer(profile);
    this.#poison = poison;
    this.ops = new ReferenceOps(this.#timer);
  }

  get peakReservedBytes(): number {
    return this.ledger.peak().totalBytes;
  }

  empty(shape: Shape, tag: MemoryTag, dtype: DType = "f32"): Tensor {
    checkPairs(shape, dtype);
    const storage = new HostStorage(this.ledger, tag, dtype, elementCount(shape));
    if (this.#poison) new Uint32Array(storage.data).fill(POISON[dtype]);
    return new Tensor(storage, [...shape], dtype);
  }

  write(tensor: Tensor, data: HostData): void {
    const elements = elementsOf(tensor);
    if (data.length !== elements.length) {
      throw new RangeError(
        `Cannot write ${data.length} elements to a tensor of shape [${tensor.shape}]: it has ${elements.length}`,
      );
    }
    const { dtype } = tensor;
    if (data instanceof Float32Array && (dtype === "f16" || dtype === "bf16")) {
      return writeHalves(data, elements as Uint16Array, dtype);
    }
    if (data.constructor !== elements.constructor) {
      throw new TypeError(`Cannot write a ${data.constructor.name} to a tensor of ${dtype}`);
    }
    elements.set(data);
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    const [elements] = await this.readAll([tensor]);
    return elements;
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
    const copies = tensors.map((tensor, i) => {
      const values = numbersOf(tensor);
      if (!into) return tensor.dtype === "f32" ? values.slice() : values;
      if (values.length !== into[i].length) {
        throw new RangeError(
          `Cannot read a tensor of shape [${tensor.shape}] into ${into[i].length} elements: it has ${values.length}`,
        );
      }
      into[i].set(values);
      return into[i];
    });
    return async () => {
      await this.sync();
      copies.forEach((_, i) => onRead?.(i));
      return copies;
    };
  }

  flush(): void {}

  /**
   * Lets timers and sockets run: ops are done when they return, and would starve the event loop otherwise. A timer
   * makes the loop look at sockets, which `setImmediate` does not do every time.
   */
  sync(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, 0));
  }

  async takeBusyMs(): Promise<number> {
    const busyMs = this.#timer.takeBusyMs();
    await this.sync();
    return busyMs;
  }

  takeProfile(): Promise<KernelTime[]> {
    return Promise.resolve(this.#timer.take());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}
