/**
 * Recomputation of a layer whose input the layer before it gets back at little cost.
 *
 * @module
 */

import { applyLayer, type Forward, type Layer, rematerializeLayer } from "../layer/layer.ts";
import type { Saved } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** A layer that gets its output back from what it saved. */
export interface ReproducibleLayer extends Layer {
  /** The output once more, owned by the caller; `saved` stays fit for backward. */
  reproduce(saved: Saved): Promise<Tensor>;
}

/**
 * The layer y = second(first(x)), keeping between forward and backward what `first` saves and nothing else. What
 * `second` saves is there only for its own backward, before that of `first` starts.
 */
export function recomputeSecond(first: ReproducibleLayer, second: Layer): Layer {
  return {
    backend: first.backend,

    async forward(x: Tensor, out?: Tensor): Promise<Forward> {
      const { y: h, saved } = await first.forward(x);
      using _ = h;
      return { y: await applyLayer(second, h, out), saved };
    },

    async backward(dy: Tensor, saved: Saved): Promise<Tensor> {
      let inner: Saved;
      {
        using h = await first.reproduce(saved);
        inner = await rematerializeLayer(second, h);
      }
      return await first.backward(await second.backward(dy, inner), saved);
    },

    async apply(x: Tensor, out?: Tensor): Promise<Tensor> {
      using h = await applyLayer(first, x);
      return await applyLayer(second, h, out);
    },
  };
}
