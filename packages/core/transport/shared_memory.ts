/**
 * Memory of the host that threads share, kept to be used again.
 *
 * @module
 */

import type { HostMemory } from "../memory/host_memory.ts";
import { bestFit, roundedBytes } from "./best_fit.ts";

/** Buffers that are kept while nobody uses them; a ring lends several pieces to each layer. */
const MAX_IDLE_BUFFERS = 256;

/**
 * Hands out memory from which a process group in a worker sends, and in which it sums, without a copy (see
 * `connectWorkerGroup`). Memory that comes back is handed out again: fresh pages from the operating system cost several
 * times what copying to them does. The contents of what is handed out are undefined.
 */
export class SharedMemory implements HostMemory {
  /** Least recently used first. */
  readonly #idle: SharedArrayBuffer[] = [];

  /** Takes an array of `length` floats, to be given back by {@linkcode SharedMemory.give} or left to the collector. */
  floats(length: number): Float32Array<SharedArrayBuffer> {
    return new Float32Array(this.#take(length * Float32Array.BYTES_PER_ELEMENT), 0, length);
  }

  /** As {@linkcode SharedMemory.floats}, of bytes. */
  bytes(length: number): Uint8Array<SharedArrayBuffer> {
    return new Uint8Array(this.#take(length), 0, length);
  }

  /** Takes back what nobody reads or writes any more; once for each array taken. */
  give({ buffer }: ArrayBufferView): void {
    this.#idle.push(buffer as SharedArrayBuffer);
    if (this.#idle.length > MAX_IDLE_BUFFERS) this.#idle.shift();
  }

  #take(bytes: number): SharedArrayBuffer {
    const best = bestFit(this.#idle, bytes);
    if (!best) return new SharedArrayBuffer(roundedBytes(bytes));
    this.#idle.splice(this.#idle.indexOf(best), 1);
    return best;
  }
}

/** Whether threads share the memory of an array. */
export function isShared({ buffer }: ArrayBufferView): boolean {
  return buffer instanceof SharedArrayBuffer;
}
