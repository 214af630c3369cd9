/**
 * Exact causal attention over ranks that trade tokens for heads, forward and backward.
 *
 * Four exchanges a layer: q, k, v to head shards and the output back; in backward the gradient of the output to head
 * shards, and those of q, k, v back. Between them each rank computes its heads over the whole sequence by itself.
 *
 * @module
 */

import {
  type AttentionCore,
  type AttentionShape,
  keepAttentionOutput,
  type Saved,
  savedTensors,
  type Tensor,
  uploadPositions,
  withAttentionOutput,
  zeros,
} from "@mst/core";
import { createHeadExchange, type HeadExchangeOptions } from "./head_exchange.ts";
import { headLayout } from "./head_layout.ts";

/** What attention is made of. */
export interface UlyssesAttentionOptions extends Omit<HeadExchangeOptions, "batch"> {
  /** Dims of attention over all heads. */
  readonly shape: AttentionShape;
  /** `TokenBatch.documentStarts` of all ranks' rows. */
  readonly documentStarts?: Uint32Array;
}

/**
 * Attention of the own heads over the whole sequence, for one micro-batch. Keeps q, k, v and log-sum-exp of the own heads,
 * and `out` of the own tokens.
 *
 * @throws {UnsupportedTopologyError} when the heads cannot be spread over the ranks
 */
export function createUlyssesAttention(
  { shape, documentStarts, ...options }: UlyssesAttentionOptions,
): AttentionCore {
  const { backend, group, partition: { seqTokens } } = options;
  const { ops } = backend;
  const { local, qkv, out: outColumns, perHead } = headLayout(shape, group.size);
  const exchange = createHeadExchange({ ...options, batch: shape.batch });
  const all = Uint32Array.from({ length: seqTokens }, (_, i) => i);
  const positions = uploadPositions(backend, all, shape.batch, documentStarts);
  const { queryPositions, keyPositions } = positions;
  const inputs = (q: Tensor, k: Tensor, v: Tensor) => ({ q, k, v, queryPositions, keyPositions });

  return {
    async forward(localQ: Tensor, localK: Tensor, localV: Tensor): Promise<{ out: Tensor; saved: Saved }> {
      const [q, k, v] = await exchange.toHeads([localQ, localK, localV], qkv);
      const ownOut = backend.empty(q.shape, "activations", q.dtype);
      const logSumExp = backend.empty([q.shape[0], local.heads], "activations");
      ops.attention(inputs(q, k, v), ownOut, logSumExp, local);
      const [out] = await exchange.toSequence([ownOut], [outColumns]);
      return { out: out.share(), saved: savedTensors({ q, k, v, out, logSumExp }) };
    },

    async backward(localDOut: Tensor, saved: Saved): Promise<{ dq: Tensor; dk: Tensor; dv: Tensor }> {
      const [q, k, v, out, logSumExp] = saved.tensors;
      const localDelta = backend.empty([out.shape[0], shape.heads], "activations");
      ops.attentionDelta(out, localDOut, localDelta, shape.heads);
      out.free();

      const [dOut, delta] = localDOut.dtype === localDelta.dtype
        ? await exchange.toHeads([localDOut, localDelta], [outColumns, perHead])
        : [...await exchange.toHeads([localDOut], [outColumns]), ...await exchange.toHeads([localDelta], [perHead])];
      const gradients = [q, k, v].map((tensor) => zeros(backend, tensor.shape, "activations", tensor.dtype));
      const [dq, dk, dv] = gradients;
      ops.attentionBackward(inputs(q, k, v), dOut, logSumExp, delta, { dq, dk, dv }, local);
      [q, k, v, logSumExp, dOut, delta].forEach((tensor) => tensor.free());

      const [localDq, localDk, localDv] = await exchange.toSequence(gradients, qkv);
      return { dq: localDq, dk: localDk, dv: localDv };
    },

    keep: keepAttentionOutput,

    async rematerialize(q: Tensor, k: Tensor, v: Tensor, kept: Saved): Promise<Saved> {
      return withAttentionOutput(await exchange.toHeads([q, k, v], qkv), kept);
    },

    [Symbol.dispose](): void {
      positions[Symbol.dispose]();
    },
  };
}
