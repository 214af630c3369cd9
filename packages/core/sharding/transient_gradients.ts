/**
 * Gradients that live from the first backward of a step that adds to them to the last one, and are used up there.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import type { Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { GradientStore } from "./gradient_store.ts";
import type { StoredTensor } from "./stored_tensor.ts";

/** A gradient that is there from `open` to `close`. */
class TransientGradient implements StoredTensor {
  /** Groups whose backward adds to it; more than one where weights are tied. */
  groups = 0;
  /** Groups of the step under way that have yet to add to it. */
  #left = 0;
  #tensors?: { readonly whole: Tensor; readonly own: Tensor };
  /** Takes the elements of a gradient that is complete but not used up by an update. */
  values?: () => Promise<Float32Array[]>;

  constructor(readonly name: string, readonly shape: Shape) {}

  get whole(): Tensor {
    return this.#open().whole;
  }

  get own(): Tensor {
    return this.#open().own;
  }

  /** Starts from zero where no group has added yet. */
  open(backend: Backend): void {
    if (this.#tensors) return;
    const whole = zeros(backend, this.shape, "gradients");
    this.#tensors = { whole, own: whole.elements(0, whole.size) };
    this.#left = this.groups;
  }

  /** Notes that a group has added; true when it was the last. */
  complete(): boolean {
    return --this.#left === 0;
  }

  close(): void {
    this.#tensors?.own.free();
    this.#tensors?.whole.free();
    this.#tensors = undefined;
  }

  #open() {
    if (this.#tensors) return this.#tensors;
    throw new ReferenceError(`Cannot use the gradient of ${this.name}: it is there only while its backward runs`);
  }
}

/**
 * Gradients of a group are allocated for its backward and freed as soon as it is done (PyTorch's "optimizer step in
 * backward"); those of tied weights live until the last of their groups has added to them. Every complete gradient goes to
 * `use` before it is freed; while there is none it is read, for {@linkcode GradientStore.readWhole}.
 *
 * @param use called with complete gradients of a group while a step is under way
 */
export function createTransientGradients(
  backend: Backend,
  use: (gradients: readonly StoredTensor[]) => Promise<boolean>,
): GradientStore<TransientGradient> {
  const all: TransientGradient[] = [];

  async function withGradients<T>(gradients: readonly TransientGradient[], compute: () => Promise<T>): Promise<T> {
    try {
      for (const gradient of gradients) gradient.open(backend);
      const result = await compute();
      const complete = gradients.filter((gradient) => gradient.complete());
      if (!await use(complete)) {
        for (const gradient of complete) gradient.values = backend.readLater([gradient.own]);
      }
      for (const gradient of complete) gradient.close();
      return result;
    } catch (error) {
      for (const gradient of all) gradient.close();
      throw error;
    }
  }

  return {
    create(name: string, shape: Shape): TransientGradient {
      const gradient = new TransientGradient(name, shape);
      all.push(gradient);
      return gradient;
    },
    group(gradients) {
      for (const gradient of gradients) gradient.groups++;
      return { withGradients: (compute) => withGradients(gradients, compute) };
    },
    reduce: () => Promise.resolve(),
    async readWhole(): Promise<Float32Array[]> {
      const wholes: Float32Array[] = [];
      for (const { values, shape } of all) {
        wholes.push(...await values?.() ?? [new Float32Array(shape.reduce((size, dim) => size * dim, 1))]);
      }
      return wholes;
    },
    clear: () => all.forEach((gradient) => gradient.values = undefined),
    free: () => all.forEach((gradient) => gradient.close()),
  };
}
