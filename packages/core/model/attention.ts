/**
 * Causal self-attention of a decoder block with its norm and residual: y = x + output(attention(rope(q), rope(k), v)).
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { type Forward, type Layer, outputLike } from "../layer/layer.ts";
import type { Parameter } from "../layer/parameter.ts";
import type { AttentionCore } from "../strategy/strategy.ts";
import { type Saved, savedTensors } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { BlockParameters } from "./parameters.ts";

type AttentionParameters = Pick<BlockParameters, "attentionNorm" | "query" | "key" | "value" | "output">;

/** What an attention layer works with besides its weights. */
export interface AttentionLayerOptions {
  /** Attention over the whole sequence, from the strategy. */
  readonly core: AttentionCore;
  /** Cosines and sines of this rank's positions [S, E]. */
  readonly ropeTable: Tensor;
  /** Query heads H. */
  readonly heads: number;
  /** Key and value heads K. */
  readonly kvHeads: number;
  /** Term added to the mean square in the norm. */
  readonly normEpsilon: number;
}

interface SavedAttention extends Saved {
  readonly x: Tensor;
  readonly rstd: Tensor;
  readonly out: Tensor;
  readonly core: Saved;
}

/**
 * A layer over this rank's rows [B·S, D]. Saves x, the norm's rstd [T] and what the attention core saves (q, k, v, out and
 * log-sum-exp); the normed input is computed again in backward.
 */
export function createAttentionLayer(
  backend: Backend,
  weights: AttentionParameters,
  { core, ropeTable, heads, kvHeads, normEpsilon }: AttentionLayerOptions,
): Layer {
  const { ops } = backend;
  const { attentionNorm, query, key, value, output } = weights;

  function project(normed: Tensor, weight: Parameter): Tensor {
    const out = backend.empty([normed.shape[0], weight.value.shape[0]], "activations");
    ops.matmul(normed, weight.value, out, { transposeB: true });
    return out;
  }

  async function attend(x: Tensor): Promise<SavedAttention> {
    const rstd = backend.empty([x.shape[0]], "activations");
    const [q, k, v] = normThenProject(x, rstd);
    ops.rope(q, ropeTable, heads);
    ops.rope(k, ropeTable, kvHeads);
    const { out, saved } = await core.forward(q, k, v);
    const own = savedTensors({ x: x.share(), rstd, out });
    return {
      ...own.named,
      core: saved,
      tensors: [...own.tensors, ...saved.tensors],
      free() {
        own.free();
        saved.free();
      },
    };
  }

  function normThenProject(x: Tensor, rstd: Tensor): [Tensor, Tensor, Tensor] {
    using normed = backend.empty(x.shape, "activations");
    ops.rmsNorm(x, attentionNorm.value, normed, rstd, normEpsilon);
    return [project(normed, query), project(normed, key), project(normed, value)];
  }

  function combine(x: Tensor, attended: Tensor, out?: Tensor): Tensor {
    const y = outputLike(backend, x, out);
    ops.copy(x, y);
    ops.matmul(attended, output.value, y, { transposeB: true, accumulate: true });
    return y;
  }

  return {
    backend,

    async forward(x: Tensor, out?: Tensor): Promise<Forward> {
      const saved = await attend(x);
      return { y: combine(x, saved.out, out), saved };
    },

    async backward(dy: Tensor, saved: Saved): Promise<Tensor> {
      const { x, rstd, out, core: coreSaved } = saved as SavedAttention;
      const dOut = backend.empty(out.shape, "activations");
      ops.matmul(dy, output.value, dOut);
      if (output.gradient) ops.matmul(dy, out, output.gradient, { transposeA: true, accumulate: true });
      out.free();

      const { dq, dk, dv } = await core.backward(dOut, coreSaved);
      ops.rope(dq, ropeTable, heads, { inverse: true });
      ops.rope(dk, ropeTable, kvHeads, { inverse: true });

      using normed = backend.empty(x.shape, "activations");
      ops.rmsNorm(x, attentionNorm.value, normed, rstd, normEpsilon);
      const parts = [[dq, query], [dk, key], [dv, value]] as const;
      for (const [gradient, weight] of parts) {
        if (weight.gradient) ops.matmul(gradient, normed, weight.gradient, { transposeA: true, accumulate: true });
      }
      const dNormed = normed; // its values are not needed any more
      for (const [i, [gradient, weight]] of parts.entries()) {
        ops.matmul(gradient, weight.value, dNormed, { accumulate: i > 0 });
        gradient.free();
      }
      ops.rmsNormBackward(x, attentionNorm.value, rstd, dNormed, dy, attentionNorm.gradient); // dx = dy + …
      x.free();
      rstd.free();
      return dy;
    },

    async apply(x: Tensor, out?: Tensor): Promise<Tensor> {
      const saved = await attend(x);
      const y = combine(x, saved.out, out);
      saved.free();
      return y;
    },

    async rematerialize(x: Tensor): Promise<Saved> {
      return await attend(x);
    },
  };
}
