/**
 * A Llama-style decoder: embedding → blocks → fused head loss, and back.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { AttentionShape } from "../backend/ops.ts";
import type { ModelConfig } from "../config/model_config.ts";
import type { RecomputePolicy } from "../config/train_config.ts";
import { applyLayer, type Layer } from "../layer/layer.ts";
import type { Region } from "../layer/region.ts";
import type { LmHeadWeights } from "../mini_sequence/lm_head_loss.ts";
import type { HostCheckpoints } from "../recompute/host_checkpoints.ts";
import { gathered } from "../sharding/gathered.ts";
import type { SequenceStrategy, TokenPartition } from "../strategy/strategy.ts";
import type { SplitComputation } from "../strategy/tensor_parallel.ts";
import { type Precision, PRECISIONS } from "../tensor/precision.ts";
import { type Saved, Scope } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { createDecoderBlock } from "./decoder_block.ts";
import type { DecoderParameters } from "./parameters.ts";
import { createRotaryAngles, createRotaryTables } from "./rope_table.ts";
import type { TokenBatch } from "./token_batch.ts";
import { splitWeights } from "./whole_weights.ts";

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
  /** Where the inputs of blocks wait for their backward, under a policy that keeps nothing else. Default: the device. */
  readonly hostCheckpoints?: HostCheckpoints;
  /** Element types; f32 when left out. */
  readonly precision?: Pick<Precision, "activations">;
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
  {
    backend,
    model,
    parameters,
    strategy,
    seqTokens,
    mlpChunks,
    headChunks,
    policy,
    hostCheckpoints,
    precision: { activations } = PRECISIONS.f32,
  }: DecoderOptions,
): Decoder {
  const { groups } = parameters;
  const partition = strategy.partition(seqTokens);
  const { positions } = partition;
  const split = splitWeights(backend, model, strategy);
  const ropeTables = createRotaryTables(model, positionsOf(positions, split.members), seqTokens);
  const headWeights: LmHeadWeights = {
    norm: parameters.finalNorm,
    head: parameters.head,
    normEpsilon: model.normEpsilon,
  };

  /** The blocks of one micro-batch; what they share is owned by the scope. */
  function createBlocks({ batch, documentStarts }: TokenBatch, region: Region, scope: Scope): Layer[] {
    const core = strategy.attention(attentionShape(model, batch), partition, documentStarts);
    scope.own({ free: () => core[Symbol.dispose]() });
    const { heads, kvHeads } = split;
    const { normEpsilon, headDim } = model;
    const slices = split.slices({ batch, positions });
    const rotary = createRotaryAngles(backend, ropeTables(batch, documentStarts), scope, { headDim, slices });
    const options = { core, region, rotary, heads, kvHeads, normEpsilon, mlpChunks, policy };
    const wrap = hostCheckpoints?.begin();
    return parameters.blocks.map((weights, i) => {
      const recomputeBlock = wrap && ((block: Layer) => wrap(block, i));
      return gathered(createDecoderBlock(backend, weights, { ...options, recomputeBlock }), groups.blocks[i], {
        previous: groups.blocks[i - 1],
        next: groups.blocks[i + 1] ?? groups.head,
      });
    });
  }

  function embed(computation: SplitComputation, inputs: Uint32Array): Promise<Tensor> {
    return groups.embedding.withWeights(
      () => computation.embed(inputs, parameters.embedding.value),
      groups.blocks[0],
    );
  }

  async function lossAndGradients(batch: TokenBatch, scale: number): Promise<Tensor> {
    using scope = new Scope();
    const { inputs, labels } = batch;
    const computation = split.computation({ batch: batch.batch, positions, activations });
    const blocks = createBlocks(batch, computation.region, scope);
    let x = scope.own(await embed(computation, inputs));
    const saved: Saved[] = [];
    for (const block of blocks) {
      const forward = await block.forward(x);
      saved.push(scope.own(forward.saved));
      scope.free(x);
      x = scope.own(forward.y);
    }

    const headLoss = () => computation.headLoss(x, labels, headWeights, { chunks: headChunks, scale });
    const { total, dx } = await groups.head.withWeights(
      () => groups.head.withGradients(headLoss),
      groups.blocks.at(-1),
    );
    scope.own(total);
    scope.free(x);
    let gradient = dx;
    for (const block of blocks.toReversed()) gradient = await block.backward(gradient, scope.release(saved.pop()!));
    using dEmbedded = gradient;
    await groups.embedding.withGradients(async () => {
      const { gradient: dTable } = parameters.embedding;
      if (dTable) await computation.embedBackward(inputs, dEmbedded, dTable);
    });
    return scope.release(total);
  }

  async function logits(batch: TokenBatch): Promise<Float32Array> {
    using scope = new Scope();
    const computation = split.computation({ batch: batch.batch, positions, activations });
    const blocks = createBlocks(batch, computation.region, scope);
    let x = scope.own(await embed(computation, batch.inputs));
    for (const block of blocks) {
      const y = await applyLayer(block, x);
      scope.free(x);
      x = scope.own(y);
    }
    return await groups.head.withWeights(() => computation.headLogits(x, headWeights, headChunks));
  }

  return { partition, lossAndGradients, logits };
}

/** All positions of some ranks, ascending. */
function positionsOf(positions: readonly Uint32Array[], ranks: readonly number[]): Uint32Array {
  return Uint32Array.from(ranks.flatMap((rank) => [...positions[rank]])).sort();
}

/** Attention dims of a model for a batch. */
export function attentionShape({ heads, kvHeads, headDim }: ModelConfig, batch: number): AttentionShape {
  return { batch, heads, kvHeads, headDim, scale: 1 / Math.sqrt(headDim) };
}
