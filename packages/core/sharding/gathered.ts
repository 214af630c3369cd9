/**
 * Weights and gradients that are whole only while a layer runs (ZeRO stages 2 and 3, Rajbhandari et al. 2020).
 *
 * @module
 */

import { applyLayer, type Layer, rematerializeLayer } from "../layer/layer.ts";
import type { ParameterGroup } from "../layer/parameter.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Saved } from "../tensor/scope.ts";

/** Options of {@linkcode gathered}. */
export interface GatheredOptions {
  /** Group that runs before this one, and after it in backward. */
  readonly previous?: ParameterGroup;
  /** Group that runs after this one. */
  readonly next?: ParameterGroup;
}

/**
 * The same layer, with the weights of its group gathered before it runs and dropped when it has, and with the gradients
 * reduced when its backward is done; meanwhile the weights of the group that follows in the direction of travel are on
 * their way. Wrapped around `recompute`, one gather serves recomputation and backward together.
 *
 * @example
 * ```ts
 * const layers = blocks.map((block, i) => gathered(block, groups[i], { previous: groups[i - 1], next: groups[i + 1] }));
 * ```
 */
export function gathered(layer: Layer, group: ParameterGroup, { previous, next }: GatheredOptions = {}): Layer {
  return {
    backend: layer.backend,
    forward: (x: Tensor, out?: Tensor) => group.withWeights(() => layer.forward(x, out), next),
    backward: (dy: Tensor, saved: Saved) =>
      group.withWeights(() => group.withGradients(() => layer.backward(dy, saved)), previous),
    apply: (x: Tensor, out?: Tensor) => group.withWeights(() => applyLayer(layer, x, out), next),
    rematerialize: (x: Tensor) => group.withWeights(() => rematerializeLayer(layer, x), next),
  };
}
