/**
 * Gradients that live from the first backward of a step that adds to them to the last one, and are used up there.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import type { Shape } from "../tensor/shape.ts";
import type { Reduction } from "../strategy/strategy.ts";
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

/** What becomes of complete gradients. */
export interface TransientGradientsOptions {
  /** Called with complete gradients of a group, summed over ranks; false where no update uses them up. */
  readonly use: (gradients: readonly StoredTensor[]) => Promise<boolean>;
  /** Starts to sum gradients over ranks; left out where there is one. */
  readonly beginReduction?: (wholes: readonly Tensor[]) => Reduction;
}

/**
 * Gradients of a group are allocated for its backward and freed as soon as it is done (PyTorch's "optimizer step in
 * backward"); those of tied weights live until the last of their groups has added to them. Every complete gradient goes to
 * `use` before it is freed; what that does not use up is read, for {@linkcode GradientStore.readWhole}.
 *
 * Where there are several ranks, a group's gradients are summed over them while the next group's backward computes, and
 * used and freed at its end: no more than two groups' gradients are there at a time.
 */
export function createTransientGradients(
  backend: Backend,
  { use, beginReduction }: TransientGradientsOptions,
): GradientStore<TransientGradient> {
  const all: TransientGradient[] = [];
  let underWay: { readonly gradients: readonly TransientGradient[]; readonly reduction: Reduction } | undefined;

  async function useUp(complete: readonly TransientGradient[]): Promise<void> {
    if (!await use(complete)) {
      for (const gradient of complete) gradient.values = backend.readLater([gradient.own]);
    }
    for (const gradient of complete) gradient.close();
  }

  /** Waits for the sums that are under way, and uses them. */
  async function finish(): Promise<void> {
    if (!underWay) return;
    const { gradients, reduction } = underWay;
    await reduction.finish();
    await useUp(gradients);
    underWay = undefined;
  }

  function closeAll(): void {
    underWay?.reduction.free();
    underWay = undefined;
    for (const gradient of all) gradient.close();
  }

  /** Leaves no gradient behind when something fails. */
  async function guarded<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      closeAll();
      throw error;
    }
  }

  async function withGradients<T>(gradients: readonly TransientGradient[], compute: () => Promise<T>): Promise<T> {
    return await guarded(async () => {
      for (const gradient of gradients) gradient.open(backend);
      const result = await compute();
      const complete = gradients.filter((gradient) => gradient.complete());
      if (beginReduction) {
        await finish();
        underWay = { gradients: complete, reduction: beginReduction(complete.map(({ whole }) => whole)) };
      } else await useUp(complete);
      return result;
    });
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
    reduce: () => guarded(finish),
    async readWhole(): Promise<Float32Array[]> {
      await guarded(finish);
      const wholes: Float32Array[] = [];
      for (const { values, shape } of all) {
        wholes.push(...await values?.() ?? [new Float32Array(shape.reduce((size, dim) => size * dim, 1))]);
      }
      return wholes;
    },
    clear: () => all.forEach((gradient) => gradient.values = undefined),
    free: closeAll,
  };
}
