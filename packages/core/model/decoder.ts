/**
 * A Llama-style decoder: embedding → blocks → fused head loss, and back.
 *
 * @module
 */

import { type Backend, tensorFrom } from "../backend/backend.ts";
import { type AttentionShape, groupById } from "../backend/ops.ts";
import type { ModelConfig } from "../config/model_config.ts";
import type { RecomputePolicy } from "../config/train_config.ts";
import { applyLayer, type Layer } from "../layer/layer.ts";
import { lmHeadLogits, lmHeadLoss, type LmHeadWeights } from "../mini_sequence/lm_head_loss.ts";
import type { SequenceStrategy, TokenPartition } from "../strategy/strategy.ts";
import { type Saved, Scope } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { createDecoderBlock } from "./decoder_block.ts";
import type { DecoderParameters } from "./parameters.ts";
import { rotaryTable } from "./rope_table.ts";
import { localBatch, type TokenBatch } from "./token_batch.ts";

/** What a decoder is made of. */
export interface DecoderOptions {
  /** Device of the weights. */
  readonly backend: Backend;
  /** Shape. */
  readonly model: ModelConfig;
  /** Weights and gradient buffers; owned by the caller. */
  readonly parameters: DecoderParameters;
  /** How sequences are spread over ranks. */
  readonly strategy: SequenceStrategy;
  /** Tokens S of a whole sequence. */
  readonly seqTokens: number;
  /** Number of mini-sequences of the MLP. */
  readonly mlpChunks: number;
  /** Number of mini-sequences of the LM head. */
  readonly headChunks: number;
  /** What is kept for backward. */
  readonly policy: RecomputePolicy;
}

/** A decoder over sequences of one length. */
export interface Decoder {
  /** Which positions each rank owns. */
  readonly partition: TokenPartition;
  /**
   * Forward and backward of a micro-batch, which every rank gets whole: adds gradients of scale · Σ losses of this rank's
   * rows to the parameters and returns the sum of these losses, unscaled: [1], owned by the caller.
   */
  lossAndGradients(batch: TokenBatch, scale: number): Promise<Tensor>;
  /** Logits of this rank's rows of a micro-batch [B·S_local, V], on the host. */
  logits(batch: TokenBatch): Promise<Float32Array>;
}

/** Makes a decoder; it holds no device memory between calls. */
export function createDecoder(
  { backend, model, parameters, strategy, seqTokens, mlpChunks, headChunks, policy }: DecoderOptions,
): Decoder {
  const partition = strategy.partition(seqTokens);
  const positions = partition.positions[strategy.rank];
  const ropeValues = rotaryTable(model, positions);
  const headWeights: LmHeadWeights = {
    norm: parameters.finalNorm,
    head: parameters.head,
    normEpsilon: model.normEpsilon,
  };

  /** The blocks of one micro-batch; what they share is owned by the scope. */
  function createBlocks(batch: number, scope: Scope): Layer[] {
    const core = strategy.attention(attentionShape(model, batch), partition);
    scope.own({ free: () => core[Symbol.dispose]() });
    const ropeTable = scope.own(
      tensorFrom(backend, ropeValues, [ropeValues.length / model.headDim, model.headDim], "activations"),
    );
    const { heads, kvHeads, normEpsilon } = model;
    return parameters.blocks.map((weights) =>
      createDecoderBlock(backend, weights, { core, ropeTable, heads, kvHeads, normEpsilon, mlpChunks, policy })
    );
  }

  function embed(inputs: Uint32Array): Tensor {
    using ids = tensorFrom(backend, inputs, [inputs.length], "activations");
    const x = backend.empty([inputs.length, model.dim], "activations");
    backend.ops.embedding(ids, parameters.embedding.value, x);
    return x;
  }

  function embedBackward(inputs: Uint32Array, dx: Tensor): void {
    const { gradient } = parameters.embedding;
    if (!gradient) return;
    const groups = groupById(inputs);
    const segments = new Uint32Array(3 * Math.min(inputs.length, model.vocab)); // empty segments at the end
    segments.set(groups.segments);
    using order = tensorFrom(backend, groups.order, [inputs.length], "activations");
    using bounds = tensorFrom(backend, segments, [segments.length / 3, 3], "activations");
    backend.ops.embeddingBackward(order, bounds, dx, gradient);
  }

  async function lossAndGradients(whole: TokenBatch, scale: number): Promise<Tensor> {
    using scope = new Scope();
    const { batch, inputs, labels } = localBatch(whole, positions);
    const blocks = createBlocks(batch, scope);
    let x = scope.own(embed(inputs));
    const saved: Saved[] = [];
    for (const block of blocks) {
      const forward = await block.forward(x);
      saved.push(scope.own(forward.saved));
      scope.free(x);
      x = scope.own(forward.y);
    }

    const { total, dx } = headLoss(x, labels, scale);
    scope.own(total);
    scope.free(x);
    let gradient = dx;
    for (const block of blocks.toReversed()) gradient = await block.backward(gradient, scope.release(saved.pop()!));
    using dEmbedded = gradient;
    embedBackward(inputs, dEmbedded);
    return scope.release(total);
  }

  function headLoss(x: Tensor, labels: Uint32Array, scale: number): { total: Tensor; dx: Tensor } {
    using targets = tensorFrom(backend, labels, [labels.length], "activations");
    const { losses, dx } = lmHeadLoss(backend, x, targets, headWeights, { chunks: headChunks, scale });
    using rowLosses = losses;
    const total = backend.empty([1], "activations");
    backend.ops.sum(rowLosses, total);
    return { total, dx };
  }

  async function logits(whole: TokenBatch): Promise<Float32Array> {
    using scope = new Scope();
    const { batch, inputs } = localBatch(whole, positions);
    const blocks = createBlocks(batch, scope);
    let x = scope.own(embed(inputs));
    for (const block of blocks) {
      const y = await applyLayer(block, x);
      scope.free(x);
      x = scope.own(y);
    }
    const all = new Float32Array(inputs.length * model.vocab);
    await lmHeadLogits(backend, x, headWeights, headChunks, async (slice, start) => {
      all.set(await backend.read(slice), start * model.vocab);
    });
    return all;
  }

  return { partition, lossAndGradients, logits };
}

/** Attention dims of a model for a batch. */
export function attentionShape({ heads, kvHeads, headDim }: ModelConfig, batch: number): AttentionShape {
  return { batch, heads, kvHeads, headDim, scale: 1 / Math.sqrt(headDim) };
}
