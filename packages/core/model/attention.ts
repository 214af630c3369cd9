/**
 * Causal self-attention of a decoder block with its norm and residual: y = x + output(attention(rope(q), rope(k), v)).
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { type Forward, outputLike } from "../layer/layer.ts";
import type { ReproducibleLayer } from "../recompute/recompute_second.ts";
import { type Region, type RowSlice, rowsOfSlice, WHOLE_REGION } from "../layer/region.ts";
import type { AttentionCore } from "../strategy/strategy.ts";
import { type Saved, savedTensors, Scope } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { BlockParameters } from "./parameters.ts";
import type { RotaryAngles } from "./rope_table.ts";

type AttentionParameters = Pick<BlockParameters, "attentionNorm" | "query" | "key" | "value" | "output">;

/** What an attention layer works with besides its weights. */
export interface AttentionLayerOptions {
  /** Attention over the whole sequence, from the strategy. */
  readonly core: AttentionCore;
  /** Wraps the projections; by default this rank holds all of the weights. */
  readonly region?: Region;
  /** Angles by which q and k are turned. */
  readonly rotary: RotaryAngles;
  /** Query heads H of this rank's weights. */
  readonly heads: number;
  /** Key and value heads K of this rank's weights. */
  readonly kvHeads: number;
  /** Term added to the mean square in the norm. */
  readonly normEpsilon: number;
  /** Whether forward runs for what backward needs, right before it, and `apply` for the output alone. Default false. */
  readonly recomputed?: boolean;
  /**
   * Whether backward projects q, k and v once more, so that besides x only the output of attention and log-sum-exp wait
   * for it. Default false.
   */
  readonly projectsAgain?: boolean;
}

/** What waits for backward; without rstd, q, k and v where it projects again. */
interface KeptAttention extends Saved {
  readonly x: Tensor;
  readonly out: Tensor;
  readonly core: Saved;
}

interface SavedAttention extends KeptAttention {
  readonly rstd: Tensor;
}

/**
 * A layer over this rank's rows [B·S, D]. Saves x, the norm's rstd [T] and what the attention core saves (q, k, v, out and
 * log-sum-exp), or only what it keeps of that, and no rstd; the normed input is computed again in backward. Where ranks
 * share the weights, q, k, v and out have the rows of all ranks and this rank's heads, and are made slice by slice.
 */
export function createAttentionLayer(
  backend: Backend,
  weights: AttentionParameters,
  {
    core,
    region = WHOLE_REGION,
    rotary,
    heads,
    kvHeads,
    normEpsilon,
    recomputed = false,
    projectsAgain = false,
  }: AttentionLayerOptions,
): ReproducibleLayer {
  const { ops } = backend;
  const { attentionNorm, query, key, value, output } = weights;

  async function attend(x: Tensor, backwardIsNext: boolean): Promise<SavedAttention> {
    const rstd = backend.empty([x.shape[0]], "activations");
    const [q, k, v] = await normThenProject(x, rstd);
    const { out, saved } = await core.forward(q, k, v, { backwardIsNext });
    return savedAttention({ x: x.share(), rstd, out }, saved);
  }

  /** What waits for backward. */
  async function hold(x: Tensor): Promise<KeptAttention> {
    const saved = await attend(x, recomputed);
    if (!projectsAgain) return saved;
    const { rstd, out } = saved;
    rstd.free();
    for (const { storage } of [x, out]) storage.retag("checkpoints");
    return savedAttention({ x: saved.x, out }, core.keep(saved.core));
  }

  /** What backward needs, from what waited for it. */
  async function complete(kept: KeptAttention): Promise<SavedAttention> {
    if (!projectsAgain) return kept as SavedAttention;
    const { x, out } = kept;
    const rstd = backend.empty([x.shape[0]], "activations");
    const [q, k, v] = await normThenProject(x, rstd);
    return savedAttention({ x, rstd, out }, await core.rematerialize(q, k, v, kept.core));
  }

  async function normThenProject(x: Tensor, rstd: Tensor): Promise<Tensor[]> {
    using scope = new Scope();
    const slices = region.slices(x.shape[0]);
    const rows = slices.reduce((sum, slice) => sum + rowsOfSlice(slice), 0);
    const projections = [query, key, value].map((weight) => ({
      weight,
      out: scope.own(backend.empty([rows, weight.value.shape[0]], "activations", x.dtype)),
    }));
    for (const slice of slices) {
      using xRows = x.rows(slice.start, slice.end);
      using rstdRows = rstd.rows(slice.start, slice.end);
      {
        using normed = norm(xRows, rstdRows);
        using all = (await region.gather(normed)).all;
        for (const { weight, out } of projections) {
          using target = attentionRows(out, slice);
          ops.matmul(all, weight.value, target, { transposeB: true });
        }
      }
      rotate(projections[0].out, projections[1].out, slice);
    }
    return projections.map(({ out }) => scope.release(out));
  }

  /** Turns the rows of a slice of q and k, or of their gradients back. */
  function rotate(q: Tensor, k: Tensor, slice: RowSlice, options?: { inverse: boolean }): void {
    using angles = rotary.of(slice);
    using qRows = attentionRows(q, slice);
    using kRows = attentionRows(k, slice);
    ops.rope(qRows, angles, heads, { ...options, keys: { x: kRows, heads: kvHeads } });
  }

  function norm(x: Tensor, rstd: Tensor): Tensor {
    const normed = backend.empty(x.shape, "activations", x.dtype);
    ops.rmsNorm(x, attentionNorm.value, normed, rstd, normEpsilon);
    return normed;
  }

  async function combine(x: Tensor, attended: Tensor, out?: Tensor): Promise<Tensor> {
    const y = outputLike(backend, x, out);
    ops.copy(x, y);
    for (const slice of region.slices(x.shape[0])) {
      using yRows = y.rows(slice.start, slice.end);
      using rows = attentionRows(attended, slice);
      const produce = (target: Tensor, accumulate: boolean) =>
        ops.matmul(rows, output.value, target, { transposeB: true, accumulate });
      await region.scatterSum(yRows, slice.counts, produce, { accumulate: true });
    }
    return y;
  }

  /** Gradient of the attended values from dy; adds the gradient of the output projection. */
  async function outputBackward(dy: Tensor, out: Tensor): Promise<Tensor> {
    using scope = new Scope();
    const dOut = scope.own(backend.empty(out.shape, "activations", out.dtype));
    for (const slice of region.slices(dy.shape[0])) {
      using dyRows = dy.rows(slice.start, slice.end);
      using all = (await region.gather(dyRows)).all;
      using outRows = attentionRows(out, slice);
      using target = attentionRows(dOut, slice);
      ops.matmul(all, output.value, target);
      if (output.gradient) ops.matmul(all, outRows, output.gradient, { transposeA: true, accumulate: true });
    }
    return scope.release(dOut);
  }

  /** Adds the gradient of x to dy, and those of the norm and of the projections of q, k and v; turns dq and dk back. */
  async function projectionBackward(
    { x, rstd, dy }: { x: Tensor; rstd: Tensor; dy: Tensor },
    gradients: readonly Tensor[],
  ): Promise<void> {
    for (const slice of region.slices(x.shape[0])) {
      using scope = new Scope();
      const [dq, dk] = gradients;
      rotate(dq, dk, slice, { inverse: true });
      const [xRows, rstdRows, dyRows] = [x, rstd, dy].map((tensor) => scope.own(tensor.rows(slice.start, slice.end)));
      using normed = norm(xRows, rstdRows);
      const { all, counts } = await region.gather(normed);
      const parts = [query, key, value].map((weight, i) => ({
        weight,
        gradient: scope.own(attentionRows(gradients[i], slice)),
      }));
      for (const { weight, gradient } of parts) {
        if (weight.gradient) ops.matmul(gradient, all, weight.gradient, { transposeA: true, accumulate: true });
      }
      all.free();
      const dNormed = normed; // its values are not needed any more
      await region.scatterSum(dNormed, counts, (target, accumulate) => {
        for (const [i, { weight, gradient }] of parts.entries()) {
          ops.matmul(gradient, weight.value, target, { accumulate: accumulate || i > 0 });
        }
      });
      ops.rmsNormBackward(xRows, attentionNorm.value, rstdRows, dNormed, dyRows, attentionNorm.gradient); // dx = dy + …
    }
  }

  return {
    backend,

    async forward(x: Tensor, out?: Tensor): Promise<Forward> {
      const saved = await hold(x);
      return { y: await combine(x, saved.out, out), saved };
    },

    async backward(dy: Tensor, saved: Saved): Promise<Tensor> {
      const { x, rstd, out, core: coreSaved } = await complete(saved as KeptAttention);
      const dOut = await outputBackward(dy, out);
      out.free();

      const { dq, dk, dv } = await core.backward(dOut, coreSaved);
      await projectionBackward({ x, rstd, dy }, [dq, dk, dv]);
      [dq, dk, dv, x, rstd].forEach((tensor) => tensor.free());
      return dy;
    },

    async apply(x: Tensor, out?: Tensor): Promise<Tensor> {
      const saved = await attend(x, false);
      const y = await combine(x, saved.out, out);
      saved.free();
      return y;
    },

    rematerialize: hold,

    reproduce(saved: Saved): Promise<Tensor> {
      const { x, out } = saved as KeptAttention;
      return combine(x, out);
    },
  };
}

/** The layer's own tensors and what its core saved, which it takes over. */
function savedAttention<T extends Record<string, Tensor>>(named: T, core: Saved): T & Saved & { readonly core: Saved } {
  const own = savedTensors(named);
  return {
    ...named,
    core,
    tensors: [...own.tensors, ...core.tensors],
    free() {
      own.free();
      core.free();
    },
  };
}

/** The rows of attention that a slice is gathered to; freed by the receiver. */
function attentionRows(tensor: Tensor, slice: RowSlice): Tensor {
  return tensor.rows(slice.at, slice.at + rowsOfSlice(slice));
}
