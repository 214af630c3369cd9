/**
 * Device memory behind the tensors of the WebGPU backend.
 *
 * @module
 */

import type { Ledger } from "../../memory/ledger.ts";
import type { MemoryTag, Storage, Tensor } from "../../tensor/tensor.ts";
import type { PooledBuffer } from "./buffer_pool.ts";

/** What a {@linkcode WebGpuStorage} needs to know of its backend. */
export interface StorageOwner {
  /** Ledger that the bytes are booked in. */
  readonly ledger: Ledger;
  /** Bytes that the start of a binding must be a multiple of. */
  readonly offsetAlignmentBytes: number;
  /** Takes back the buffer of a storage whose last tensor was freed. */
  reclaim(buffer: PooledBuffer): void;
}

/** One pooled GPU buffer, booked in the ledger under a tag. */
export class WebGpuStorage implements Storage {
  #tag: MemoryTag;

  /**
   * @param owner backend that made the storage
   * @param buffer buffer of at least `bytes` bytes
   * @param bytes bytes that tensors address
   * @param tag purpose of the memory
   */
  constructor(readonly owner: StorageOwner, readonly buffer: PooledBuffer, readonly bytes: number, tag: MemoryTag) {
    this.#tag = tag;
    owner.ledger.allocate(tag, bytes);
  }

  /** Purpose of the memory at present. */
  get tag(): MemoryTag {
    return this.#tag;
  }

  /** Moves the bytes to another tag in the ledger. */
  retag(tag: MemoryTag): void {
    this.owner.ledger.retag(this.#tag, tag, this.bytes);
    this.#tag = tag;
  }

  /** Gives the buffer back to the pool. */
  release(): void {
    this.owner.ledger.release(this.#tag, this.bytes);
    this.owner.reclaim(this.buffer);
  }
}

/**
 * The WebGPU storage of a live tensor.
 *
 * @throws {ReferenceError} when the tensor has been freed
 * @throws {TypeError} when the tensor lives on another kind of backend
 */
export function storageOf(tensor: Tensor): WebGpuStorage {
  tensor.assertLive();
  if (!(tensor.storage instanceof WebGpuStorage)) {
    throw new TypeError(`Cannot use a tensor of shape [${tensor.shape}] on WebGPU: it lives on another backend`);
  }
  return tensor.storage;
}
