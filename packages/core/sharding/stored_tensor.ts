/**
 * A weight or a gradient as a rank keeps it.
 *
 * @module
 */

import type { Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** A weight or a gradient. */
export interface StoredTensor {
  /**
   * All of it.
   *
   * @throws {ReferenceError} while only this rank's segment is on the device
   */
  readonly whole: Tensor;
  /** The elements that this rank updates, flat; may be none. */
  readonly own: Tensor;
}

/** A tensor that is always whole. Frees both of its handles. */
export function wholeTensor(whole: Tensor, own: Tensor): StoredTensor & { free(): void } {
  return {
    whole,
    own,
    free(): void {
      own.free();
      whole.free();
    },
  };
}

/** A tensor of which a rank keeps its segment, whole only between `open` and `close`. */
export class ShardedTensor implements StoredTensor {
  #whole?: Tensor;

  /**
   * @param name name of the parameter
   * @param shape dims of the whole
   * @param own this rank's segment, flat; freed by {@linkcode ShardedTensor.free}
   */
  constructor(readonly name: string, readonly shape: Shape, readonly own: Tensor) {}

  get whole(): Tensor {
    if (this.#whole) return this.#whole;
    throw new ReferenceError(
      `Cannot use the ${this.own.storage.tag} of ${this.name}: ranks hold segments of it, its group must be gathered`,
    );
  }

  /** Takes over a whole tensor until {@linkcode ShardedTensor.close}. */
  open(whole: Tensor): Tensor {
    if (this.#whole) throw new ReferenceError(`Cannot gather ${this.name}: it is gathered already`);
    this.#whole = whole;
    return whole;
  }

  /** Frees the whole tensor, if there is one. */
  close(): void {
    this.#whole?.free();
    this.#whole = undefined;
  }

  /** Frees the segment. */
  free(): void {
    this.own.free();
  }
}
