/**
 * A piece of a block on the host that several uses share.
 *
 * @module
 */

import { floatsOf, type HostMemory, release } from "@mst/core";

/** One handle on values, to be freed once; their memory goes back with the last one. */
export class HostPiece {
  /** The values. */
  readonly values: Float32Array;
  readonly #free: () => void;
  readonly #references: { count: number };

  private constructor(values: Float32Array, free: () => void, references: { count: number } = { count: 0 }) {
    this.values = values;
    this.#free = free;
    this.#references = references;
    references.count++;
  }

  /** A piece of undefined contents in memory that is given back when it is freed. */
  static allocate(memory: HostMemory, length: number): HostPiece {
    const values = memory.floats(length);
    return new HostPiece(values, () => memory.give(values));
  }

  /** A piece that was received as a message. */
  static received(message: Uint8Array<ArrayBuffer>): HostPiece {
    return new HostPiece(floatsOf(message), () => release(message));
  }

  /** A further handle. */
  share(): HostPiece {
    return new HostPiece(this.values, this.#free, this.#references);
  }

  /** Drops this handle. */
  free(): void {
    if (--this.#references.count === 0) this.#free();
  }
}
