/**
 * Mini-sequence execution of a position-wise layer (Luo et al. 2024, section 3.1).
 *
 * @module
 */

import { applyLayer, type Forward, type Layer, outputLike, rematerializeLayer } from "../layer/layer.ts";
import { type Saved, savedGroup } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { planChunks } from "./chunk_plan.ts";

/** Options of {@linkcode miniSequence}. */
export interface MiniSequenceOptions {
  /** Number of mini-sequences; more than there are rows means one a row. */
  readonly chunks: number;
}

interface SavedSlices extends Saved {
  readonly slices: readonly Saved[];
}

/**
 * Runs a position-wise layer (each row of y depends on the same row of x only) slice by slice along the rows, so that
 * its intermediates exist for one slice at a time. Output and gradients are those of the layer itself: weight gradients
 * add up over the slices. Together with {@linkcode recompute} inside, nothing but slices of x is kept for backward.
 *
 * @example
 * ```ts
 * const mlp = miniSequence(recompute(createMlpLayer(backend, weights, 1e-5)), { chunks: 8 });
 * ```
 */
export function miniSequence(layer: Layer, { chunks }: MiniSequenceOptions): Layer {
  const { backend } = layer;

  async function eachSlice(x: Tensor, run: (xSlice: Tensor, start: number, end: number) => Promise<void>) {
    for (const { start, end } of planChunks(x.shape[0], chunks)) {
      using xSlice = x.rows(start, end);
      await run(xSlice, start, end);
    }
  }

  /** Copies what a layer wrote elsewhere to where it belongs; a share of `target` is there already. */
  function settle(result: Tensor, target: Tensor): void {
    if (result.storage !== target.storage) backend.ops.copy(result, target);
    result.free();
  }

  function group(slices: Saved[]): SavedSlices {
    return { ...savedGroup(slices), slices };
  }

  return {
    backend,

    async forward(x: Tensor, out?: Tensor): Promise<Forward> {
      const y = outputLike(backend, x, out);
      const slices: Saved[] = [];
      await eachSlice(x, async (xSlice, start, end) => {
        using ySlice = y.rows(start, end);
        const result = await layer.forward(xSlice, ySlice);
        slices.push(result.saved);
        settle(result.y, ySlice);
      });
      return { y, saved: group(slices) };
    },

    async backward(dy: Tensor, saved: Saved): Promise<Tensor> {
      const { slices } = saved as SavedSlices;
      for (const [i, { start, end }] of planChunks(dy.shape[0], chunks).entries()) {
        using target = dy.rows(start, end);
        settle(await layer.backward(dy.rows(start, end), slices[i]), target);
      }
      return dy;
    },

    async apply(x: Tensor, out?: Tensor): Promise<Tensor> {
      const y = outputLike(backend, x, out);
      await eachSlice(x, async (xSlice, start, end) => {
        using ySlice = y.rows(start, end);
        settle(await applyLayer(layer, xSlice, ySlice), ySlice);
      });
      return y;
    },

    async rematerialize(x: Tensor): Promise<Saved> {
      const slices: Saved[] = [];
      await eachSlice(x, async (xSlice) => {
        slices.push(await rematerializeLayer(layer, xSlice));
      });
      return group(slices);
    },
  };
}
