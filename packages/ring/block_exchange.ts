/**
 * How blocks travel around the ring: from each rank to the next, host memory to host memory, piece by piece, so that one
 * is read from the device, others are on their way and earlier ones are put on the next device at the same time.
 *
 * @module
 */

import {
  addFloats,
  addHalves,
  type Backend,
  bytesOf,
  type DType,
  ELEMENT_BYTES,
  elementBytes,
  type ExchangeClock,
  type HostMemory,
  type ProcessGroup,
  Scope,
  type Tensor,
} from "@mst/core";
import { HostPiece } from "./host_piece.ts";

/** Words of 4 bytes of a whole piece: long enough for the throughput of a link, several to a block of a long sequence. */
export const PIECE_WORDS = 2 ** 21;

/** Two matrices, k and v or dk and dv, of the element type of the exchange. */
export type Pair = readonly [Tensor, Tensor];

/**
 * A pair on the host, or on its way there: the pieces of the one matrix and then of the other, in the order in which they
 * come. Its owner frees each piece.
 */
export type HostBlock = readonly Promise<HostPiece>[];

/** The exchanges of one ring. Every promise also counts as handled, so that one error does not hide behind another. */
export interface BlockExchange {
  /** Reads a pair; the copy is ordered now, and the tensors may be freed at once. */
  read(pair: Pair): HostBlock;
  /** Writes a block to a pair as it comes, and frees it unless it is kept. */
  write(block: HostBlock, pair: Pair, options?: { keep?: boolean }): Promise<void>;
  /** Passes k and v of all ranks around; in round i comes the block that rank − i owns, `blocks[i - 1]` of the result. */
  circulate(what: string, own: HostBlock): HostBlock[];
  /**
   * Adds what earlier ranks computed for this round's block (nothing in round 1, which starts the sum) and sends the sum
   * to the next rank, that in the last round to the block's owner. Takes over `part`.
   */
  addAndPass(what: string, round: number, part: HostBlock): Promise<void>;
  /** The sum over the other ranks for the own block. */
  collect(what: string): HostBlock;
}

/** What the exchanges of a ring are made of. */
export interface BlockExchangeOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** At least two ranks. */
  readonly group: ProcessGroup;
  /** Measures for how long ranks exchange. */
  readonly clock: ExchangeClock;
  /** What blocks are read into. */
  readonly memory: HostMemory;
  /** Elements of k, as of v, of each rank's block. */
  readonly elements: readonly number[];
  /** Their type, f32 or f16; they travel as they lie. */
  readonly dtype: DType;
}

/** Frees a block once it is there. */
export async function freeBlock(block: HostBlock): Promise<void> {
  for (const piece of block) (await piece).free();
}

/** Exchanges between neighbours of a group. */
export function createBlockExchange(
  { backend, group, clock, memory, elements, dtype }: BlockExchangeOptions,
): BlockExchange {
  const { rank, size } = group;
  const next = (rank + 1) % size;
  const previous = (rank + size - 1) % size;

  /** Sends pieces as they come, and drops its handles on them. */
  async function send(block: HostBlock, what: string, round: number): Promise<void> {
    await Promise.all(block.map(async (coming, i) => {
      const piece = await coming;
      await group.send(next, bytesOf(piece.values), labelOf(what, round, i));
      piece.free();
    }));
  }

  /** Receives the pieces of the block, or of the sum for it, that comes in a round. */
  function receive(what: string, round: number): HostBlock {
    const owner = (rank - round + size) % size;
    const words = elements[owner] * elementBytes(dtype) / ELEMENT_BYTES;
    const pieces = pairSpans(words).map((_, i) =>
      handled(group.recv(previous, labelOf(what, round, i)).then(HostPiece.received))
    );
    handled(clock.exchange(() => Promise.all(pieces)));
    return pieces;
  }

  return {
    read(pair: Pair): HostBlock {
      using scope = new Scope();
      const words = pair.map((tensor) => scope.own(tensor.words()));
      const spans = pairSpans(words[0].size);
      const views = spans.map(({ matrix, start, end }) => scope.own(words[matrix].elements(start, end)));
      const pieces = spans.map(({ start, end }) => HostPiece.allocate(memory, end - start));
      const arrivals = pieces.map(() => Promise.withResolvers<HostPiece>());
      arrivals.forEach(({ promise }) => handled(promise));
      backend.readAll(views, pieces.map(({ values }) => values), (i) => arrivals[i].resolve(pieces[i]))
        .catch((error) => arrivals.forEach(({ reject }) => reject(error)));
      return arrivals.map(({ promise }) => promise);
    },

    async write(block: HostBlock, pair: Pair, { keep = false } = {}): Promise<void> {
      using scope = new Scope();
      const words = pair.map((tensor) => scope.own(tensor.words()));
      for (const [i, { matrix, start, end }] of pairSpans(words[0].size).entries()) {
        const piece = await block[i];
        using view = words[matrix].elements(start, end);
        backend.write(view, piece.values);
        if (!keep) piece.free();
      }
    },

    circulate(what: string, own: HostBlock): HostBlock[] {
      const blocks = [own];
      for (let round = 1; round < size; round++) {
        const shared = blocks[round - 1].map((coming) => handled(coming.then((piece) => piece.share())));
        handled(clock.exchange(() => send(shared, what, round)));
        blocks.push(receive(what, round));
      }
      return blocks.slice(1);
    },

    addAndPass(what: string, round: number, part: HostBlock): Promise<void> {
      const earlier = round > 1 ? receive(what, round) : undefined;
      const sums = part.map((coming, i) => handled(earlier ? addInto(coming, earlier[i], dtype) : coming));
      return handled(clock.exchange(() => send(sums, what, round + 1)));
    },

    collect: (what) => receive(what, size),
  };
}

/** Each piece has a label of its own, so that the threads of a group can share them. */
function labelOf(what: string, round: number, piece: number): string {
  return `${what}, round ${round}, piece ${piece}`;
}

/** Adds what earlier ranks have to this rank's part, which is then the sum. */
async function addInto(part: Promise<HostPiece>, earlier: Promise<HostPiece>, dtype: DType): Promise<HostPiece> {
  const [sum, term] = await Promise.all([part, earlier]);
  if (dtype === "f16") addHalves(sum.values, term.values, sum.values);
  else addFloats(sum.values, term.values, sum.values);
  term.free();
  return sum;
}

/** The words of each piece of a pair of matrices. */
function pairSpans(words: number): { matrix: 0 | 1; start: number; end: number }[] {
  const spans: { matrix: 0 | 1; start: number; end: number }[] = [];
  for (const matrix of [0, 1] as const) {
    for (let start = 0; start < words; start += PIECE_WORDS) {
      spans.push({ matrix, start, end: Math.min(start + PIECE_WORDS, words) });
    }
  }
  return spans;
}

function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}
