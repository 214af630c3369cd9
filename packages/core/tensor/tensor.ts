/**
 * Tensor handles with explicit ownership.
 *
 * A {@linkcode Storage} is a piece of device memory. A {@linkcode Tensor} is a handle on all or part of it. Every
 * handle is freed exactly once, by whoever owns it; the memory goes back to its backend with the last handle. There
 * are no finalisers: a forgotten handle shows up in the ledger, and tests count live bytes down to the weights.
 *
 * @module
 */

import { checkPairs, type DType, elementBytes, elementCount, type Shape } from "./shape.ts";

/** What a piece of device memory is used for; the ledger counts bytes by it. */
export type MemoryTag =
  | "weights"
  | "gradients"
  | "optimizer"
  | "activations"
  | "checkpoints"
  | "scratch"
  | "communication";

/** Every {@linkcode MemoryTag}, in the order of reports. */
export const MEMORY_TAGS: readonly MemoryTag[] = [
  "weights",
  "gradients",
  "optimizer",
  "activations",
  "checkpoints",
  "scratch",
  "communication",
];

/** Device memory behind tensors; made and taken back by a backend. */
export interface Storage {
  /** Bytes that the tensors of this storage can address, as counted by the ledger. */
  readonly bytes: number;
  /** Purpose of the memory at present. */
  readonly tag: MemoryTag;
  /** Moves the bytes to another tag in the ledger. */
  retag(tag: MemoryTag): void;
  /** Gives the memory back; called once, when the last handle is freed. */
  release(): void;
}

/** A handle on device memory: dims, element type and where it starts. Made by `Backend.empty`. */
export class Tensor implements Disposable {
  /** Number of elements. */
  readonly size: number;
  readonly #references: { count: number };
  #freed = false;

  /**
   * @param storage memory that the tensor lies in
   * @param shape dims in elements
   * @param dtype element type
   * @param offset first element within the storage
   * @param references count of live handles shared by all handles on the storage; left out by backends
   * @throws {RangeError} when elements of 16 bits do not lie in pairs
   */
  constructor(
    readonly storage: Storage,
    readonly shape: Shape,
    readonly dtype: DType = "f32",
    readonly offset: number = 0,
    references: { count: number } = { count: 0 },
  ) {
    checkPairs(shape, dtype, offset);
    this.size = elementCount(shape);
    this.#references = references;
    references.count++;
  }

  /** Bytes of the elements this handle spans. */
  get bytes(): number {
    return this.size * elementBytes(this.dtype);
  }

  /** Whether this handle has been freed. */
  get freed(): boolean {
    return this.#freed;
  }

  /** A further handle on the same elements, to be freed by its receiver. */
  share(): Tensor {
    return this.view(this.shape, 0);
  }

  /** A handle on rows `start` to `end` (exclusive) along the first dim, to be freed by its receiver. */
  rows(start: number, end: number): Tensor {
    const [count = 0, ...rest] = this.shape;
    if (!(start >= 0 && start <= end && end <= count)) {
      throw new RangeError(`Cannot take rows ${start} to ${end} of a tensor of shape [${this.shape}]`);
    }
    return this.view([end - start, ...rest], start * elementCount(rest));
  }

  /** A flat handle on elements `start` to `end` (exclusive) in row-major order, to be freed by its receiver. */
  elements(start: number, end: number): Tensor {
    if (!(start >= 0 && start <= end && end <= this.size)) {
      throw new RangeError(`Cannot take elements ${start} to ${end} of a tensor of shape [${this.shape}]`);
    }
    return this.view([end - start], start);
  }

  /** A handle on the same elements under other dims, to be freed by its receiver. */
  reshape(shape: Shape): Tensor {
    if (elementCount(shape) !== this.size) {
      throw new RangeError(`Cannot reshape [${this.shape}] to [${shape}]: the number of elements must stay the same`);
    }
    return this.view(shape, 0);
  }

  /**
   * A handle on the same bytes as f32 words, to be freed by its receiver: as the tensor itself where elements have 32
   * bits, and with half as many columns of pairs where they have 16. For what only moves elements, such as exchanges and
   * checkpoints; the numbers in the words of pairs mean nothing.
   */
  words(): Tensor {
    this.assertLive();
    const perWord = 4 / elementBytes(this.dtype);
    const shape = perWord === 1
      ? this.shape
      : [...this.shape.slice(0, -1), this.shape[this.shape.length - 1] / perWord];
    return new Tensor(this.storage, shape, "f32", this.offset / perWord, this.#references);
  }

  /** Drops this handle; the memory goes back to the backend with the last one. Throws when freed twice. */
  free(): void {
    this.assertLive();
    this.#freed = true;
    if (--this.#references.count === 0) this.storage.release();
  }

  /** Same as {@linkcode Tensor.free}, for `using`. */
  [Symbol.dispose](): void {
    this.free();
  }

  /** Throws a `ReferenceError` when the handle has been freed. */
  assertLive(): void {
    if (this.#freed) {
      throw new ReferenceError(`Cannot use a freed ${this.storage.tag} tensor of shape [${this.shape}]`);
    }
  }

  private view(shape: Shape, skip: number): Tensor {
    this.assertLive();
    return new Tensor(this.storage, shape, this.dtype, this.offset + skip, this.#references);
  }
}
