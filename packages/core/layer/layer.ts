/**
 * The contract of a layer, which `miniSequence` and `recompute` wrap.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { Saved } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Result of {@linkcode Layer.forward}. */
export interface Forward {
  /** Output, owned by the caller. */
  readonly y: Tensor;
  /** What backward needs; given to exactly one `backward`, or freed. */
  readonly saved: Saved;
}

/**
 * A layer with an explicit backward. Gradients of weights are added to the buffers of their parameters.
 *
 * Ownership: `x` stays with the caller, so a layer that saves it takes a share. `backward` takes over `dy` and `saved`
 * and returns `dx`, which may be `dy` itself, updated in place: a residual connection then costs no memory.
 */
export interface Layer {
  /** Where the layer's weights live and its ops run. */
  readonly backend: Backend;
  /** y = f(x), written to `out` when it is given (y is then a share of it). */
  forward(x: Tensor, out?: Tensor): Promise<Forward>;
  /** dx from dy; frees `saved` and, unless it is returned, `dy`. */
  backward(dy: Tensor, saved: Saved): Promise<Tensor>;
  /** As forward, keeping nothing. Optional: for layers that need less memory when nothing is kept. */
  apply?(x: Tensor, out?: Tensor): Promise<Tensor>;
  /** As forward, without the output. Optional: for layers that can save work when only `saved` is wanted. */
  rematerialize?(x: Tensor): Promise<Saved>;
}

/** Runs a layer forward, keeping nothing; the output is owned by the caller. */
export async function applyLayer(layer: Layer, x: Tensor, out?: Tensor): Promise<Tensor> {
  if (layer.apply) return await layer.apply(x, out);
  const { y, saved } = await layer.forward(x, out);
  saved.free();
  return y;
}

/** Computes only what the backward of a layer needs. */
export async function rematerializeLayer(layer: Layer, x: Tensor): Promise<Saved> {
  if (layer.rematerialize) return await layer.rematerialize(x);
  const { y, saved } = await layer.forward(x);
  y.free();
  return saved;
}

/** Makes the output of a layer: a share of `out` when given, else a tensor as x; owned by the caller. */
export function outputLike(backend: Backend, x: Tensor, out?: Tensor): Tensor {
  return out ? out.share() : backend.empty(x.shape, "activations", x.dtype);
}
