/**
 * A pair of arrays on the host that several uses share.
 *
 * @module
 */

import { release, type SharedMemory } from "@mst/core";

/** k and v of a block, or dk and dv: one handle on them, to be freed once; their memory goes back with the last one. */
export class HostBlock {
  /** The values. */
  readonly arrays: readonly [Float32Array, Float32Array];
  readonly #free: () => void;
  readonly #references: { count: number };

  private constructor(
    arrays: readonly [Float32Array, Float32Array],
    free: () => void,
    references: { count: number } = { count: 0 },
  ) {
    this.arrays = arrays;
    this.#free = free;
    this.#references = references;
    references.count++;
  }

  /** A block of undefined contents in memory that is given back when it is freed. */
  static allocate(memory: SharedMemory, lengths: readonly [number, number]): HostBlock {
    const arrays = [memory.floats(lengths[0]), memory.floats(lengths[1])] as const;
    return new HostBlock(arrays, () => arrays.forEach((array) => memory.give(array)));
  }

  /** A block of messages that were received. */
  static received(messages: readonly [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>]): HostBlock {
    const [first, second] = messages;
    return new HostBlock(
      [new Float32Array(first.buffer), new Float32Array(second.buffer)],
      () => messages.forEach((message) => release(message)),
    );
  }

  /** A further handle. */
  share(): HostBlock {
    return new HostBlock(this.arrays, this.#free, this.#references);
  }

  /** Drops this handle. */
  free(): void {
    if (--this.#references.count === 0) this.#free();
  }
}
