/**
 * Exact causal attention over a ring of ranks, forward and backward.
 *
 * In round i a rank works on the block of k and v that rank − i owns. Blocks travel from host memory to host memory
 * and reach the device when their round starts; the next block travels while the current one is computed. In backward
 * the sums of dk and dv follow, from the first rank that is not the owner to the last, and from there to the owner.
 *
 * @module
 */

import {
  type AttentionCore,
  type AttentionForwardOptions,
  type AttentionShape,
  type Backend,
  type DType,
  type ExchangeClock,
  type HostMemory,
  keepAttentionOutput,
  type ProcessGroup,
  type Saved,
  savedTensors,
  Scope,
  type Tensor,
  tensorFrom,
  type TokenPartition,
  uploadPositions,
  withAttentionOutput,
  zeros,
} from "@mst/core";
import { type BlockExchange, createBlockExchange, freeBlock, type HostBlock, type Pair } from "./block_exchange.ts";

/** What ring attention is made of. */
export interface RingAttentionOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** The ranks. */
  readonly group: ProcessGroup;
  /** Measures for how long ranks exchange. */
  readonly clock: ExchangeClock;
  /** Memory of the host that blocks are read into. */
  readonly memory: HostMemory;
  /** Dims of attention. */
  readonly shape: AttentionShape;
  /** Positions of every rank. */
  readonly partition: TokenPartition;
  /** `TokenBatch.documentStarts` of all ranks' rows; travelling keys need nothing of it. */
  readonly documentStarts?: Uint32Array;
}

/**
 * Share of the own keys that are left for the time in which sums travel, where there are others to be computed while blocks
 * come in. The first quarter is about half of the own round, as more queries see it than later ones.
 */
const LATE_KEYS = 0.25;

/** A block of k and v on the device with the positions of its keys. */
interface KeyBlock {
  readonly k: Tensor;
  readonly v: Tensor;
  readonly positions: Tensor;
}

/** What backward needs besides tensors: on the host the own block, to be sent again, or those that were received. */
interface SavedRing extends Saved {
  readonly own?: HostBlock;
  readonly received?: readonly HostBlock[];
}

function savedRing(tensors: Saved, onHost: Pick<SavedRing, "own" | "received">): SavedRing {
  const { own, received = [] } = onHost;
  const free = () => {
    tensors.free();
    [...own ? [own] : [], ...received].forEach(freeBlock);
  };
  return { ...tensors, ...onHost, free };
}

/** Attention of this rank's queries over the keys of all ranks, for one micro-batch. */
export function createRingAttention(
  { backend, group, clock, memory, shape, partition, documentStarts }: RingAttentionOptions,
): AttentionCore {
  const { ops } = backend;
  const { rank, size } = group;
  const elements = partition.positions.map(({ length }) => shape.batch * length * shape.kvHeads * shape.headDim);
  const local = uploadPositions(backend, partition.positions[rank], shape.batch, documentStarts);
  const { queryPositions } = local;
  const foreignRounds = Array.from({ length: size - 1 }, (_, i) => i + 1);

  /** Exchanges of k and v, or of dk and dv, of a type. */
  function exchangeOf({ dtype }: Tensor): BlockExchange {
    return createBlockExchange({ backend, group, clock, memory, elements, dtype });
  }

  /** Puts the block of a round on the device as it comes, as k is; the scope owns it. */
  async function upload(
    host: HostBlock,
    round: number,
    scope: Scope,
    { dtype, keep = false }: { dtype: DType; keep?: boolean },
  ): Promise<KeyBlock> {
    const keyPositions = partition.positions[(rank - round + size) % size];
    const dims = [shape.batch * keyPositions.length, shape.kvHeads * shape.headDim];
    const k = scope.own(backend.empty(dims, "communication", dtype));
    const v = scope.own(backend.empty(dims, "communication", dtype));
    const positions = scope.own(tensorFrom(backend, keyPositions, [keyPositions.length], "communication"));
    await exchangeOf(k).write(host, [k, v], { keep });
    return { k, v, positions };
  }

  /** Starts to bring the own block to the host. */
  function readOwn(k: Tensor, v: Tensor): HostBlock {
    return exchangeOf(k).read([k, v]);
  }

  function zerosLike({ shape: dims, dtype }: Tensor, tag: "activations" | "communication"): Tensor {
    return zeros(backend, dims, tag, dtype);
  }

  return {
    async forward(
      q: Tensor,
      k: Tensor,
      v: Tensor,
      { backwardIsNext = false }: AttentionForwardOptions = {},
    ): Promise<{ out: Tensor; saved: Saved }> {
      const out = backend.empty(q.shape, "activations", q.dtype);
      const logSumExp = backend.empty([q.shape[0], shape.heads], "activations");
      const attend = (block: KeyBlock, resume: boolean) => {
        const inputs = { q, k: block.k, v: block.v, queryPositions, keyPositions: block.positions };
        ops.attention(inputs, out, logSumExp, shape, { resume });
        backend.flush();
      };

      const own = readOwn(k, v);
      attend({ k, v, positions: local.keyPositions }, false);
      const received = exchangeOf(k).circulate("forward k, v", own);
      for (const round of foreignRounds) {
        using scope = new Scope();
        attend(await upload(received[round - 1], round, scope, { dtype: k.dtype, keep: backwardIsNext }), true);
      }
      await Promise.all(own); // reads can overtake one another, and labels of all layers are the same
      if (backwardIsNext) await freeBlock(own);

      const tensors = savedTensors({ q, k, v, out, logSumExp });
      return { out: out.share(), saved: savedRing(tensors, backwardIsNext ? { received } : { own }) };
    },

    async backward(dOut: Tensor, saved: Saved): Promise<{ dq: Tensor; dk: Tensor; dv: Tensor }> {
      const [q, k, v, out, logSumExp] = saved.tensors;
      const { own, received } = saved as SavedRing;
      const sums = exchangeOf(k);
      const delta = backend.empty(logSumExp.shape, "activations");
      ops.attentionDelta(out, dOut, delta, shape.heads);
      out.free(); // makes room for dq
      const dq = zerosLike(q, "activations");
      /** Adds to dq, dk and dv of the block. */
      const attendBackward = (block: KeyBlock, [dk, dv]: Pair) => {
        const inputs = { q, k: block.k, v: block.v, queryPositions, keyPositions: block.positions };
        ops.attentionBackward(inputs, dOut, logSumExp, delta, { dq, dk, dv }, shape);
        backend.flush();
      };

      const sending: Promise<void>[] = [];
      let part: { round: number; gradients: Pair } | undefined;
      /** Sends off dk and dv of the last foreign round, for which it waits for the device. */
      const sendPart = () => {
        if (!part) return;
        sending.push(sums.addAndPass("backward dk, dv", part.round, sums.read(part.gradients)));
        part.gradients.forEach((tensor) => tensor.free());
        part = undefined;
      };
      let ownPair: Pair | undefined;
      /** The part of the own round from one key to another. */
      const ownRound = (start: number, end: number) => {
        ownPair ??= [zerosLike(k, "activations"), zerosLike(v, "activations")];
        if (start === end) return;
        using scope = new Scope();
        const [kPart, vPart, dkPart, dvPart] = [k, v, ...ownPair].map((x) => scope.own(x.rows(start, end)));
        const isAll = end - start === k.shape[0]; // of all sequences
        const { keyPositions } = local;
        const positions = scope.own(isAll ? keyPositions.share() : keyPositions.elements(start, end));
        attendBackward({ k: kPart, v: vPart, positions }, [dkPart, dvPart]);
      };

      // The own block is computed while foreign ones are still to come, and the rest of it while sums still travel.
      const rows = k.shape[0];
      const late = received ? rows : shape.batch === 1 ? Math.floor(rows * LATE_KEYS) : 0;
      if (late < rows) ownRound(late, rows);
      const travelling = received ?? exchangeOf(k).circulate("backward k, v", own!);
      for (const round of foreignRounds) {
        using scope = new Scope();
        const block = await upload(travelling[round - 1], round, scope, { dtype: k.dtype });
        sendPart();
        part = { round, gradients: [zerosLike(block.k, "communication"), zerosLike(block.v, "communication")] };
        attendBackward(block, part.gradients);
      }
      sendPart();
      const sum = sums.collect("backward dk, dv");
      ownRound(0, late);
      const [dk, dv] = ownPair!;
      if (own) await freeBlock(own);
      [delta, dOut, q, k, v, logSumExp].forEach((tensor) => tensor.free());

      using dkOfOthers = backend.empty(dk.shape, "communication", dk.dtype);
      using dvOfOthers = backend.empty(dv.shape, "communication", dv.dtype);
      await Promise.all([sums.write(sum, [dkOfOthers, dvOfOthers]), ...sending]);
      ops.add(dkOfOthers, dk);
      ops.add(dvOfOthers, dv);
      return { dq, dk, dv };
    },

    keep: keepAttentionOutput,

    rematerialize(q: Tensor, k: Tensor, v: Tensor, kept: Saved): Promise<Saved> {
      const own = readOwn(k, v); // travels once backward starts
      return Promise.resolve(savedRing(withAttentionOutput([q, k, v], kept), { own }));
    },

    [Symbol.dispose](): void {
      local[Symbol.dispose]();
    },
  };
}
