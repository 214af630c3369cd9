/**
 * Sums of gradients over ranks that are made while the device computes something else. Each rank owns a segment of every
 * gradient: the others send it theirs, it adds them up on its device, and sends the sum to all (a reduce-scatter and an
 * all-gather, each pair of ranks exchanging directly). Numbers are rounded on the device to the type that travels; the host
 * moves bytes.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { Scope } from "../tensor/scope.ts";
import { type DType, ELEMENT_BYTES, elementBytes } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bytesOf, floatsOf, pairedSegment } from "../transport/collectives.ts";
import type { ProcessGroup } from "../transport/process_group.ts";
import { release } from "../transport/release.ts";
import type { ExchangeClock } from "./exchange_clock.ts";
import type { Reduction } from "./strategy.ts";

/** Words of a whole piece, 16 MiB: while one is sent, others are read from the device, summed or written to it. */
const PIECE_WORDS = 4 * 2 ** 20;

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
  const perWord = ELEMENT_BYTES / elementBytes(dtype);
  const held = new Scope();
  const mirrors: Tensor[] = [];

  /** Gradients as they travel. */
  function mirror(): void {
    for (const gradient of gradients) {
      const copy = held.own(backend.empty(gradient.shape, "communication", dtype));
      mirrors.push(copy);
      ops.cast(gradient, copy);
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

  /** Copies pieces as they are now; each comes as soon as it is there, and none before the caller waits for something. */
  function read(pieces: readonly Piece[]): Promise<Float32Array>[] {
    using scope = new Scope();
    const coming = pieces.map(({ words }) => ({
      values: group.memory.floats(words),
      ...Promise.withResolvers<Float32Array>(),
    }));
    const spans = pieces.flatMap((piece, i) => piece.spans.map((span) => ({ span, i })));
    const into = spans.map(({ span: { at, words }, i }) => coming[i].values.subarray(at, at + words));
    const take = backend.readLater(spans.map(({ span }) => scope.own(wordsOf(span))), into, (read) => {
      const { i } = spans[read];
      if (spans[read + 1]?.i !== i) coming[i].resolve(coming[i].values);
    });
    nextTurn().then(take).catch((error) => coming.forEach(({ reject }) => reject(error)));
    return coming.map(({ promise }) => promise);
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

  /** All pieces at once; counts as an exchange only from when this rank has something to send. */
  async function exchange(): Promise<void> {
    const pieces = others.flatMap((owner) =>
      piecesOf(sizes, { ranks: size, owner, perWord, pieceWords, label }).map((piece) => ({ owner, piece }))
    );
    const reading = read(pieces.map(({ piece }) => piece));
    const passed = pieces.map(({ owner, piece }, i) => passPiece(owner, piece, reading[i]));
    const own = piecesOf(sizes, { ranks: size, owner: rank, perWord, pieceWords, label });
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
      mirrors.forEach((copy, i) => ops.cast(copy, gradients[i]));
      held[Symbol.dispose]();
    },
    free: () => held[Symbol.dispose](),
  };
}

/** The messages in which a rank's segments of all gradients travel, one behind the other. */
function piecesOf(
  sizes: readonly number[],
  { ranks, owner, perWord, pieceWords, label }: {
    readonly ranks: number;
    readonly owner: number;
    readonly perWord: number;
    readonly pieceWords: number;
    readonly label: string;
  },
): Piece[] {
  const pieces: { label: string; spans: Span[]; words: number }[] = [];
  for (const [index, size] of sizes.entries()) {
    const segment = pairedSegment(size, ranks, owner);
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

/** Resolves once the caller waits for something else, so that the device has something to do meanwhile. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
