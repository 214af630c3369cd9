/**
 * The contract of the memory that ranks send from.
 *
 * @module
 */

/**
 * Memory of the host that a process group sends without a copy of its own, kept to be used again. What is handed out has
 * undefined contents. Once an array has been sent it may still be read where it lies: it must not be changed from then on,
 * only sent again or given back, for which nobody has to wait.
 */
export interface HostMemory {
  /** Takes an array of `length` floats, to be given back once or left to the collector. */
  floats(length: number): Float32Array;
  /** As {@linkcode HostMemory.floats}, of bytes. */
  bytes(length: number): Uint8Array;
  /** Takes back an array once the caller has no use for it; what is still being received of it stays as it is. */
  give(array: ArrayBufferView): void;
}
