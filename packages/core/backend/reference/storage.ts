/**
 * Host memory behind the tensors of the reference backend.
 *
 * @module
 */

import type { Ledger } from "../../memory/ledger.ts";
import { type DType, ELEMENT_BYTES } from "../../tensor/shape.ts";
import type { MemoryTag, Storage, Tensor } from "../../tensor/tensor.ts";

/** A typed array that is booked in a ledger for as long as a tensor lies in it. */
export class HostStorage implements Storage {
  /** Bytes booked in the ledger. */
  readonly bytes: number;
  readonly #ledger: Ledger;
  #tag: MemoryTag;
  #data: Float32Array | Uint32Array | undefined;

  /**
   * Allocates zeros and books them.
   *
   * @throws {MemoryBudgetError} when the budget of the ledger does not allow it; nothing is booked then
   * @throws {RangeError} when the host has no array of that size; nothing is booked then
   */
  constructor(ledger: Ledger, tag: MemoryTag, dtype: DType, elements: number) {
    this.bytes = elements * ELEMENT_BYTES;
    ledger.assertWithinBudget(tag, this.bytes);
    try {
      this.#data = dtype === "f32" ? new Float32Array(elements) : new Uint32Array(elements);
    } catch (cause) {
      throw new RangeError(`Cannot allocate ${this.bytes} bytes for ${tag}: the host has no array of that size`, {
        cause,
      });
    }
    this.#ledger = ledger;
    this.#tag = tag;
    ledger.allocate(tag, this.bytes);
  }

  /** Purpose of the memory at present. */
  get tag(): MemoryTag {
    return this.#tag;
  }

  /** All elements. Throws a `ReferenceError` when the memory has been given back. */
  get data(): Float32Array | Uint32Array {
    if (!this.#data) throw new ReferenceError(`Cannot use ${this.#tag} memory that has been given back`);
    return this.#data;
  }

  /** Moves the bytes to another tag in the ledger. */
  retag(tag: MemoryTag): void {
    this.#ledger.retag(this.#tag, tag, this.bytes);
    this.#tag = tag;
  }

  /** Gives the memory back. */
  release(): void {
    if (!this.#data) throw new ReferenceError(`Cannot give ${this.#tag} memory back twice`);
    this.#data = undefined;
    this.#ledger.release(this.#tag, this.bytes);
  }
}

/**
 * Elements of a live tensor; writing to the array writes to the tensor.
 *
 * @throws {ReferenceError} when the tensor has been freed
 * @throws {TypeError} when the tensor belongs to another backend
 */
export function elementsOf(tensor: Tensor): Float32Array | Uint32Array {
  tensor.assertLive();
  if (!(tensor.storage instanceof HostStorage)) {
    throw new TypeError(`Cannot use a tensor of shape [${tensor.shape}]: it was not made by a reference backend`);
  }
  return tensor.storage.data.subarray(tensor.offset, tensor.offset + tensor.size);
}

/** As {@linkcode elementsOf}, of an f32 tensor. Throws a `TypeError` for any other. */
export function floatsOf(tensor: Tensor): Float32Array {
  const elements = elementsOf(tensor);
  if (elements instanceof Float32Array) return elements;
  throw new TypeError(`Cannot use a tensor of ${tensor.dtype} of shape [${tensor.shape}] as numbers: it must be f32`);
}

/** As {@linkcode elementsOf}, of a u32 tensor. Throws a `TypeError` for any other. */
export function idsOf(tensor: Tensor): Uint32Array {
  const elements = elementsOf(tensor);
  if (elements instanceof Uint32Array) return elements;
  throw new TypeError(`Cannot use a tensor of ${tensor.dtype} of shape [${tensor.shape}] as ids: it must be u32`);
}
