/**
 * Host memory behind the tensors of the reference backend.
 *
 * @module
 */

import type { Ledger } from "../../memory/ledger.ts";
import { fromHalfBits, writeHalves } from "../../tensor/half.ts";
import { type DType, elementBytes } from "../../tensor/shape.ts";
import type { MemoryTag, Storage, Tensor } from "../../tensor/tensor.ts";

/** Elements as they lie in memory; those of f16 and bf16 tensors are bits. */
export type Elements = Float32Array | Uint32Array | Uint16Array;

/** A piece of host memory that is booked in a ledger for as long as a tensor lies in it. */
export class HostStorage implements Storage {
  /** Bytes booked in the ledger. */
  readonly bytes: number;
  readonly #ledger: Ledger;
  #tag: MemoryTag;
  #data: ArrayBuffer | undefined;

  /**
   * Allocates zeros and books them.
   *
   * @throws {MemoryBudgetError} when the budget of the ledger does not allow it; nothing is booked then
   * @throws {RangeError} when the host has no array of that size; nothing is booked then
   */
  constructor(ledger: Ledger, tag: MemoryTag, dtype: DType, elements: number) {
    this.bytes = elements * elementBytes(dtype);
    ledger.assertWithinBudget(tag, this.bytes);
    try {
      this.#data = new ArrayBuffer(this.bytes);
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

  /** All bytes. Throws a `ReferenceError` when the memory has been given back. */
  get data(): ArrayBuffer {
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
export function elementsOf(tensor: Tensor): Elements {
  tensor.assertLive();
  if (!(tensor.storage instanceof HostStorage)) {
    throw new TypeError(`Cannot use a tensor of shape [${tensor.shape}]: it was not made by a reference backend`);
  }
  const start = tensor.offset * elementBytes(tensor.dtype);
  if (tensor.dtype === "f32") return new Float32Array(tensor.storage.data, start, tensor.size);
  if (tensor.dtype === "u32") return new Uint32Array(tensor.storage.data, start, tensor.size);
  return new Uint16Array(tensor.storage.data, start, tensor.size);
}

/** As {@linkcode elementsOf}, of a u32 tensor. Throws a `TypeError` for any other. */
export function idsOf(tensor: Tensor): Uint32Array {
  const elements = elementsOf(tensor);
  if (elements instanceof Uint32Array) return elements;
  throw new TypeError(`Cannot use a tensor of ${tensor.dtype} of shape [${tensor.shape}] as ids: it must be u32`);
}

/**
 * Numbers of a live tensor: its own elements where they are f32, a copy where they have 16 bits.
 *
 * @throws {TypeError} when the tensor holds ids
 */
export function numbersOf(tensor: Tensor): Float32Array {
  const { dtype, shape } = tensor;
  const elements = elementsOf(tensor);
  if (elements instanceof Float32Array) return elements;
  if (dtype === "f16" || dtype === "bf16") return fromHalfBits(elements as Uint16Array, dtype);
  throw new TypeError(`Cannot use a tensor of ${dtype} of shape [${shape}] as numbers: it must hold floats`);
}

/**
 * The numbers that one op works on. What it writes to tensors of 16 bits is rounded once, when the op is over, to the
 * nearest, ties to even.
 */
export class OpNumbers {
  readonly #written: { readonly tensor: Tensor; readonly values: Float32Array }[] = [];

  /** Numbers of a tensor that the op reads; those it also writes where they are the same elements. */
  of(tensor: Tensor): Float32Array {
    const { storage, offset, size } = tensor;
    const written = this.#written.find((each) =>
      each.tensor.storage === storage && each.tensor.offset === offset && each.tensor.size === size
    );
    return written?.values ?? numbersOf(tensor);
  }

  /** Numbers of a tensor that the op writes. Called before `of` where an op may get the same elements twice. */
  into(tensor: Tensor): Float32Array {
    const values = numbersOf(tensor);
    this.#written.push({ tensor, values });
    return values;
  }

  /** Rounds what was written. */
  store(): void {
    for (const { tensor, values } of this.#written) {
      const { dtype } = tensor;
      if (dtype === "f16" || dtype === "bf16") writeHalves(values, elementsOf(tensor) as Uint16Array, dtype);
    }
  }
}
