/**
 * Tensors of one test, freed together.
 *
 * @module
 */

import { type Backend, tensorFrom, zeros } from "../../packages/core/backend/backend.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import type { DType, Shape } from "../../packages/core/tensor/shape.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";

/** Makes tensors on a backend and frees them at the end of a `using` block. */
export class TestTensors implements Disposable {
  readonly #scope = new Scope();

  /** @param backend where the tensors live */
  constructor(readonly backend: Backend) {}

  /** A tensor with the given contents. */
  from(data: Float32Array | Uint32Array | readonly number[], shape: Shape): Tensor {
    const contents = Array.isArray(data) ? Float32Array.from(data) : data as Float32Array | Uint32Array;
    return this.#scope.own(tensorFrom(this.backend, contents, shape, "scratch"));
  }

  /** A u32 tensor of one dim. */
  ids(...ids: number[]): Tensor {
    return this.from(Uint32Array.from(ids), [ids.length]);
  }

  /** A tensor of undefined contents. */
  empty(shape: Shape, dtype: DType = "f32"): Tensor {
    return this.#scope.own(this.backend.empty(shape, "scratch", dtype));
  }

  /** A tensor of zeros. */
  zeros(shape: Shape): Tensor {
    return this.#scope.own(zeros(this.backend, shape, "scratch"));
  }

  /** A view of rows. */
  rows(tensor: Tensor, start: number, end: number): Tensor {
    return this.#scope.own(tensor.rows(start, end));
  }

  /** Frees the tensors. */
  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}
