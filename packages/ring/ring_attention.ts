/**
 * Exact causal attention over a ring of ranks, forward and backward.
 *
 * In round i a rank works on the block of k and v that rank − i owns. Blocks travel from host memory to host memory
 * and reach the device when their round starts; the next block travels while the current one is computed.
 *
 * @module
 */

import {
  type AttentionCore,
  type AttentionShape,
  type Backend,
  type ExchangeClock,
  type ProcessGroup,
  type Saved,
  savedTensors,
  Scope,
  type Tensor,
  tensorFrom,
  type TokenPartition,
  uploadPositions,
  zeros,
} from "@mst/core";
import { createBlockExchange, type HostBlock } from "./block_exchange.ts";

/** What ring attention is made of. */
export interface RingAttentionOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** The ranks. */
  readonly group: ProcessGroup;
  /** Measures for how long ranks exchange. */
  readonly clock: ExchangeClock;
  /** Dims of attention. */
  readonly shape: AttentionShape;
  /** Positions of every rank. */
  readonly partition: TokenPartition;
  /** `TokenBatch.documentStarts` of all ranks' rows; travelling keys need nothing of it. */
  readonly documentStarts?: Uint32Array;
}

/** A block of k and v on the device with the positions of its keys. */
interface KeyBlock {
  readonly k: Tensor;
  readonly v: Tensor;
  readonly positions: Tensor;
}

/** What backward needs; the own k and v on the host save it reading them again. */
interface SavedRing extends Saved {
  readonly ownOnHost: Promise<HostBlock>;
}

/** Attention of this rank's queries over the keys of all ranks, for one micro-batch. */
export function createRingAttention(
  { backend, group, clock, shape, partition, documentStarts }: RingAttentionOptions,
): AttentionCore {
  const { ops } = backend;
  const { rank, size } = group;
  const exchange = createBlockExchange(group, clock);
  const local = uploadPositions(backend, partition.positions[rank], shape.batch, documentStarts);
  const { queryPositions } = local;

  function owner(round: number): number {
    return (rank - round + size) % size;
  }

  /** Puts a received block on the device; the scope owns it. */
  function upload([k, v]: HostBlock, round: number, scope: Scope): KeyBlock {
    const keyPositions = partition.positions[owner(round)];
    const dims = [shape.batch * keyPositions.length, shape.kvHeads * shape.headDim];
    return {
      k: scope.own(tensorFrom(backend, k, dims, "communication")),
      v: scope.own(tensorFrom(backend, v, dims, "communication")),
      positions: scope.own(tensorFrom(backend, keyPositions, [keyPositions.length], "communication")),
    };
  }

  /**
   * Calls `compute` once a round with the block of that round, the own one first, and hands its work to the device at
   * once; the block of the next round travels meanwhile. `beforeNext` is called when the next block is on its way to the
   * device, so that waiting for the device there delays neither the exchange nor the upload.
   */
  async function eachRound(
    pass: string,
    own: KeyBlock,
    ownOnHost: Promise<HostBlock>,
    compute: (block: KeyBlock, round: number) => void,
    beforeNext: (round: number) => void = () => {},
  ): Promise<void> {
    let host = ownOnHost;
    compute(own, 0);
    backend.flush();
    for (let round = 1; round < size; round++) {
      host = exchange.pass(`${pass} k, v`, round, host);
      using scope = new Scope();
      const block = upload(await host, round, scope);
      beforeNext(round);
      compute(block, round);
      backend.flush();
    }
    beforeNext(size);
  }

  return {
    async forward(q: Tensor, k: Tensor, v: Tensor): Promise<{ out: Tensor; saved: Saved }> {
      const out = backend.empty(q.shape, "activations");
      const logSumExp = backend.empty([q.shape[0], shape.heads], "activations");
      const ownOnHost = exchange.read(backend, [k, v]);
      await eachRound("forward", { k, v, positions: local.keyPositions }, ownOnHost, (block, round) => {
        const inputs = { q, k: block.k, v: block.v, queryPositions, keyPositions: block.positions };
        ops.attention(inputs, out, logSumExp, shape, { resume: round > 0 });
      });
      const saved: SavedRing = { ...savedTensors({ q, k, v, out, logSumExp }), ownOnHost };
      return { out: out.share(), saved };
    },

    async backward(dOut: Tensor, saved: Saved): Promise<{ dq: Tensor; dk: Tensor; dv: Tensor }> {
      const [q, k, v, out, logSumExp] = saved.tensors;
      const keyDims = k.shape;
      const dq = zeros(backend, q.shape, "activations");
      const delta = backend.empty(logSumExp.shape, "activations");
      ops.attentionDelta(out, dOut, delta, shape.heads);

      let part: [Tensor, Tensor]; // dk and dv of the round under way
      const travelling: Promise<void>[] = [];
      const { ownOnHost } = saved as SavedRing;
      await eachRound("backward", { k, v, positions: local.keyPositions }, ownOnHost, (block) => {
        part = [zeros(backend, block.k.shape, "communication"), zeros(backend, block.v.shape, "communication")];
        const [dk, dv] = part;
        const inputs = { q, k: block.k, v: block.v, queryPositions, keyPositions: block.positions };
        ops.attentionBackward(inputs, dOut, logSumExp, delta, { dq, dk, dv }, shape);
      }, (nextRound) => {
        travelling.push(exchange.addAndPass("backward dk, dv", nextRound - 1, exchange.read(backend, part)));
        part.forEach((tensor) => tensor.free());
      });
      delta.free();
      dOut.free();
      saved.free();

      const [, [dk, dv]] = await Promise.all([Promise.all(travelling), exchange.collect("backward dk, dv")]);
      return {
        dq,
        dk: tensorFrom(backend, dk, keyDims, "activations"),
        dv: tensorFrom(backend, dv, keyDims, "activations"),
      };
    },

    [Symbol.dispose](): void {
      local[Symbol.dispose]();
    },
  };
}
