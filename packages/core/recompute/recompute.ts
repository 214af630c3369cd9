/**
 * Activation recomputation of any layer (Chen et al. 2016).
 *
 * @module
 */

import { applyLayer, type Forward, type Layer, rematerializeLayer } from "../layer/layer.ts";
import { type Saved, savedTensors } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * The same layer, keeping only its input between forward and backward. Backward first computes again what the layer
 * saves; the layer's output is not computed a second time where the layer can tell it apart (`rematerialize`).
 *
 * @example
 * ```ts
 * const block = recompute(createDecoderBlock(context));
 * ```
 */
export function recompute(layer: Layer): Layer {
  function keep(x: Tensor): Saved {
    x.storage.retag("checkpoints");
    return savedTensors({ x: x.share() });
  }

  return {
    backend: layer.backend,

    async forward(x: Tensor, out?: Tensor): Promise<Forward> {
      return { y: await applyLayer(layer, x, out), saved: keep(x) };
    },

    async backward(dy: Tensor, saved: Saved): Promise<Tensor> {
      const inner = await rematerializeLayer(layer, saved.tensors[0]);
      saved.free();
      return await layer.backward(dy, inner);
    },

    async apply(x: Tensor, out?: Tensor): Promise<Tensor> {
      return await applyLayer(layer, x, out);
    },

    rematerialize(x: Tensor): Promise<Saved> {
      return Promise.resolve(keep(x));
    },
  };
}
