/**
 * Sums of gradients over ranks, of which some travel while the device computes something else. Numbers are rounded on the
 * device to the type that travels, and added up there in f32; the host moves bytes.
 *
 * Two ranks send each other all they have, and both add the same two rounded terms. Of more ranks, each owns a segment of
 * every gradient: the others send it theirs, it adds them up, and sends the rounded sum to all (a reduce-scatter and an
 * all-gather, each pair of ranks exchanging directly). Over two ranks that would be as many bytes, but the sums would wait
 * on the device for whatever it was handed meanwhile.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { nextTurn } from "../backend/next_turn.ts";
import { Scope } from "../tensor/scope.ts";
import { type DType, ELEMENT_BYTES, elementBytes } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, floatsOf, pairedSegment } from "../transport/collectives.ts";
import type { ProcessGroup } from "../transport/process_group.ts";
import { release } from "../transport/release.ts";
import type { ExchangeClock } from "./exchange_clock.ts";
import { cutIntoLots } from "./lots.ts";
import type { Reduction } from "./strategy.ts";

/** Words of a whole piece, 16 MiB: while one is sent, others are read from the device, summed or written to it. */
const PIECE_WORDS = 4 * 2 ** 20;

/**
 * Factor on what travels as halves, a power of two. Gradients of weights, sums over all tokens, are scaled as the loss is,
 * which is as large as gradients of single tokens allow: that leaves little below the largest half, and more than enough
 * above the smallest.
 */
const HALF_FACTOR = 2 ** -6;

/** What a reduction is made of. */
export interface ReductionOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** The ranks. */
  readonly group: ProcessGroup;
  /** Measures for how long ranks exchange. */
  readonly clock: ExchangeClock;
  /** Element type in which numbers travel. */
  readonly dtype: DType;
  /** Unlike that of any other reduction under way, and the same on all ranks. */
  readonly label: string;
  /** Most words of a message. Default 4 Mi. */
  readonly pieceWords?: number;
}

/** Elements of one gradient in a message. */
interface Span {
  /** Number of the gradient. */
  readonly index: number;
  readonly start: number;
  readonly end: number;
  /** Where they start in the message, in words. */
  readonly at: number;
  readonly words: number;
}

/** What one message holds. */
interface Piece {
  readonly label: string;
  readonly spans: readonly Span[];
  readonly words: number;
}

/** Starts to sum gradients; see {@linkcode Reduction}. Every rank calls it with gradients of the same shapes. */
export function beginReduction(
  gradients: readonly Tensor[],
  { backend, group, clock, dtype, label, pieceWords = PIECE_WORDS }: ReductionOptions,
): Reduction {
  const { ops } = backend;
  const { rank, size } = group;
  const others = Array.from({ length: size }, (_, other) => other).filter((other) => other !== rank);
  const sizes = gradients.map((gradient) => gradient.size);
  const isPair = size === 2;
  const perWord = ELEMENT_BYTES / elementBytes(dtype);
  const factor = dtype === "f16" ? HALF_FACTOR : 1;
  const held = new Scope();
  const mirrors: Tensor[] = [];

  /** Gradients as they travel. */
  function mirror(): void {
    for (const gradient of gradients) {
      const copy = held.own(backend.empty(gradient.shape, "communication", dtype));
      mirrors.push(copy);
      if (factor !== 1) ops.scale(gradient, factor);
      ops.cast(gradient, copy);
      if (isPair && copy.dtype !== gradient.dtype) ops.cast(copy, gradient);
    }
  }

  function wordsOf({ index, start, end }: Span): Tensor {
    using elements = mirrors[index].elements(start, end);
    return elements.words();
  }

  function forSpans({ spans }: Piece, run: (copy: Tensor, gradient: Tensor) => void): void {
    for (const { index, start, end } of spans) {
      using copy = mirrors[index].elements(start, end);
      using gradient = gradients[index].elements(start, end);
      run(copy, gradient);
    }
  }

  /** Copies a piece as it is now; the function that is returned waits for it. */
  function order({ spans, words }: Piece): () => Promise<Float32Array> {
    using scope = new Scope();
    const values = group.memory.floats(words);
    const into = spans.map(({ at, words }) => values.subarray(at, at + words));
    const take = backend.readLater(spans.map((span) => scope.own(wordsOf(span))), into);
    return () => take().then(() => values);
  }

  /**
   * Copies pieces as they are now; they come one after the other, and in between whoever else waits for the device, which
   * should not run dry while the host copies.
   */
  function read(pieces: readonly Piece[]): Promise<Float32Array>[] {
    let earlier: Promise<unknown> = Promise.resolve();
    return pieces.map(order).map((take) => {
      const coming = earlier.then(nextTurn).then(take);
      earlier = coming;
      return coming;
    });
  }

  /** Receives a piece into the mirrors. */
  async function receive(from: number, piece: Piece, what: string): Promise<void> {
    const message = await clock.exchange(() => group.recv(from, `${piece.label} ${what}`));
    const words = floatsOf(message);
    if (words.length !== piece.words) {
      throw new RangeError(
        `Cannot sum gradients with rank ${from}: it sent ${words.length} words, wanted ${piece.words} as here`,
      );
    }
    try {
      for (const span of piece.spans) {
        using target = wordsOf(span);
        backend.write(target, words.subarray(span.at, span.at + span.words));
      }
    } finally {
      release(message);
    }
  }

  /** Sends what was read to ranks, and gives its memory back. */
  async function send(to: readonly number[], piece: Piece, what: string, coming: Promise<Float32Array>) {
    const values = await coming;
    await clock.exchange(() =>
      Promise.all(to.map((other) => group.send(other, bytesOf(values), `${piece.label} ${what}`)))
    );
    group.memory.give(values);
  }

  /** Puts the other rank's terms where the own ones were. */
  async function swapPiece(piece: Piece, coming: Promise<Float32Array>): Promise<void> {
    const received = coming.then(() => receive(others[0], piece, "terms"));
    await Promise.all([send(others, piece, "terms", coming), received]);
  }

  /** Adds the terms of the other ranks in rank order, and sends the sum to them. */
  async function sumPiece(piece: Piece): Promise<void> {
    for (const from of others) {
      await receive(from, piece, "terms");
      forSpans(piece, (copy, sum) => ops.add(copy, sum));
    }
    forSpans(piece, (copy, sum) => ops.cast(sum, copy));
    await send(others, piece, "sum", read([piece])[0]);
  }

  async function passPiece(owner: number, piece: Piece, coming: Promise<Float32Array>): Promise<void> {
    await send([owner], piece, "terms", coming);
    await receive(owner, piece, "sum");
  }

  /** What a rank owns if as many share the gradients. */
  function piecesOf(owner: number, owners: number): Piece[] {
    return cutSegments(sizes, { owner, owners, perWord, pieceWords, label });
  }

  /** All pieces at once; counts as an exchange only from when this rank has something to send. */
  async function exchange(): Promise<void> {
    if (isPair) {
      const all = piecesOf(0, 1);
      const reading = read(all);
      await Promise.all(all.map((piece, i) => swapPiece(piece, reading[i])));
      return;
    }
    const pieces = others.flatMap((owner) => piecesOf(owner, size).map((piece) => ({ owner, piece })));
    const reading = read(pieces.map(({ piece }) => piece));
    const passed = pieces.map(({ owner, piece }, i) => passPiece(owner, piece, reading[i]));
    const own = piecesOf(rank, size);
    const summed = own.map(async (piece) => {
      await reading[0];
      await sumPiece(piece);
    });
    await Promise.all([...passed, ...summed]);
  }

  try {
    mirror();
  } catch (error) {
    held[Symbol.dispose]();
    throw error;
  }
  const exchanged = exchange();
  exchanged.catch(() => {}); // reported where it is waited for

  return {
    async finish(): Promise<void> {
      await exchanged;
      for (const [i, copy] of mirrors.entries()) {
        if (isPair) ops.add(copy, gradients[i]);
        else ops.cast(copy, gradients[i]);
        if (factor !== 1) ops.scale(gradients[i], 1 / factor);
      }
      held[Symbol.dispose]();
    },
    free: () => held[Symbol.dispose](),
  };
}

/** Sums gradients lot by lot, of which one is on its way while the next is read from the device. */
export async function reduceInLots(
  gradients: readonly Tensor[],
  begin: (lot: readonly Tensor[]) => Reduction,
): Promise<void> {
  const underWay: Reduction[] = [];
  try {
    for (const { start, end } of cutIntoLots(gradients.map(({ size }) => size))) {
      underWay.push(begin(gradients.slice(start, end)));
      if (underWay.length < 2) continue;
      await underWay[0].finish();
      underWay.shift();
    }
    await underWay[0]?.finish();
    underWay.shift();
  } finally {
    underWay.forEach((reduction) => reduction.free()); // after an error
  }
}

/** The messages in which a rank's segments of all gradients travel, one behind the other. */
function cutSegments(
  sizes: readonly number[],
  { owner, owners, perWord, pieceWords, label }: {
    readonly owner: number;
    readonly owners: number;
    readonly perWord: number;
    readonly pieceWords: number;
    readonly label: string;
  },
): Piece[] {
  const pieces: { label: string; spans: Span[]; words: number }[] = [];
  for (const [index, size] of sizes.entries()) {
    const segment = pairedSegment(size, owners, owner);
    for (let start = segment.start; start < segment.end;) {
      let piece = pieces.at(-1);
      if (!piece || piece.words === pieceWords) {
        piece = { label: `${label}, piece ${pieces.length},`, spans: [], words: 0 };
        pieces.push(piece);
      }
      const end = Math.min(segment.end, start + (pieceWords - piece.words) * perWord);
      const words = (end - start) / perWord;
      piece.spans.push({ index, start, end, at: piece.words, words });
      piece.words += words;
      start = end;
    }
  }
  return pieces;
}
