/**
 * Scopes: owners of tensors that live until the end of a block.
 *
 * @module
 */

import type { Tensor } from "./tensor.ts";

/** Anything that is given back by one call, such as a tensor or what a layer saved. */
export interface Freeable {
  /** Gives back what is owned; called once. */
  free(): void;
}

/**
 * Owns what is handed to it and frees it, latest first, at the end of a `using` block, also when an error is thrown.
 *
 * @example
 * ```ts
 * function doubled(backend: Backend, x: Tensor): Tensor {
 *   using scope = new Scope();
 *   const y = scope.own(backend.empty(x.shape, "activations"));
 *   backend.ops.copy(x, y);
 *   backend.ops.add(x, y);
 *   return scope.release(y); // the caller owns y
 * }
 * ```
 */
export class Scope implements Disposable {
  readonly #owned = new Set<Freeable>();

  /** Takes ownership and returns its argument. */
  own<T extends Freeable>(item: T): T {
    this.#owned.add(item);
    return item;
  }

  /** Gives ownership back to the caller and returns the argument. */
  release<T extends Freeable>(item: T): T {
    if (!this.#owned.delete(item)) throw new ReferenceError("Cannot release what the scope does not own");
    return item;
  }

  /** Frees one owned item before the scope ends. */
  free(item: Freeable): void {
    this.release(item).free();
  }

  /** Frees all that is still owned, latest first. */
  [Symbol.dispose](): void {
    const items = [...this.#owned].reverse();
    this.#owned.clear();
    for (const item of items) item.free();
  }
}

/** What a layer keeps between forward and backward; freed by backward, or by `free` when there is none. */
export interface Saved extends Freeable {
  /** Tensors held, for inspection. */
  readonly tensors: readonly Tensor[];
}

/** A {@linkcode Saved} of tensors, which it takes over. */
export function savedTensors<T extends Record<string, Tensor>>(named: T): Saved & { readonly named: T } {
  const tensors = Object.values(named);
  return { named, tensors, free: () => tensors.forEach((tensor) => tensor.free()) };
}

/** A {@linkcode Saved} of others, which it takes over. */
export function savedGroup(parts: readonly Saved[]): Saved {
  return {
    get tensors(): readonly Tensor[] {
      return parts.flatMap((part) => part.tensors);
    },
    free: () => parts.forEach((part) => part.free()),
  };
}
