/**
 * One layer after another.
 *
 * @module
 */

import { type Saved, savedGroup } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { applyLayer, type Forward, type Layer, rematerializeLayer } from "./layer.ts";

interface SavedPair extends Saved {
  readonly parts: readonly [Saved, Saved];
}

/** The layer y = second(first(x)). */
export function sequential(first: Layer, second: Layer): Layer {
  function pair(a: Saved, b: Saved): SavedPair {
    return { ...savedGroup([a, b]), parts: [a, b] };
  }

  return {
    backend: first.backend,

    async forward(x: Tensor, out?: Tensor): Promise<Forward> {
      const a = await first.forward(x);
      using h = a.y;
      const b = await second.forward(h, out);
      return { y: b.y, saved: pair(a.saved, b.saved) };
    },

    async backward(dy: Tensor, saved: Saved): Promise<Tensor> {
      const [a, b] = (saved as SavedPair).parts;
      return await first.backward(await second.backward(dy, b), a);
    },

    async apply(x: Tensor, out?: Tensor): Promise<Tensor> {
      using h = await applyLayer(first, x);
      return await applyLayer(second, h, out);
    },

    async rematerialize(x: Tensor): Promise<Saved> {
      const a = await first.forward(x);
      using h = a.y;
      return pair(a.saved, await rematerializeLayer(second, h));
    },
  };
}
