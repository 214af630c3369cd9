/** Blocks of several pieces, and of different lengths, on their way around a ring. */

import { assert, assertEquals } from "@std/assert";
import {
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  ExchangeClock,
  SharedMemory,
  tensorFrom,
} from "@mst/core";
import {
  type BlockExchange,
  createBlockExchange,
  freeBlock,
  type Pair,
  PIECE_FLOATS,
} from "../../packages/ring/block_exchange.ts";

/** Elements of a matrix on each rank: more than a piece, less than one, exactly two. */
const ELEMENTS = [PIECE_FLOATS + 5, 7, 2 * PIECE_FLOATS];
const RANKS = ELEMENTS.length;

/** Element `i` of a matrix; sums over ranks are exact. */
const valueOf = (owner: number, matrix: number, i: number) => 100 * owner + 10 * matrix + (i % 7);

function pairOf(backend: Backend, owner: number, scale = 1): Pair {
  return [0, 1].map((matrix) => {
    const values = Float32Array.from({ length: ELEMENTS[owner] }, (_, i) => scale * valueOf(owner, matrix, i));
    return tensorFrom(backend, values, [values.length], "communication");
  }) as unknown as Pair;
}

async function assertPair(backend: Backend, pair: Pair, owner: number, scale = 1): Promise<void> {
  for (const [matrix, values] of (await backend.readAll(pair)).entries()) {
    assertEquals(values.length, ELEMENTS[owner]);
    assert(values.every((value, i) => value === scale * valueOf(owner, matrix, i)), `matrix ${matrix} of ${owner}`);
  }
  pair.forEach((tensor) => tensor.free());
}

function emptyPair(backend: Backend, owner: number): Pair {
  return [0, 1].map(() => backend.empty([ELEMENTS[owner]], "communication")) as unknown as Pair;
}

async function onRing(
  body: (exchange: BlockExchange, backend: Backend, ownerOf: (round: number) => number) => Promise<void>,
): Promise<void> {
  await Promise.all(
    createLoopbackGroups(RANKS).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const [clock, memory] = [new ExchangeClock(), new SharedMemory()];
      const exchange = createBlockExchange({ backend, group, clock, memory, elements: ELEMENTS });
      await body(exchange, backend, (round) => (group.rank - round + RANKS) % RANKS);
      await group.barrier();
      assertEquals(backend.ledger.liveBytes(), 0);
      await group.close();
    }),
  );
}

Deno.test("blocks of all ranks pass by each rank, piece by piece, in the order of the ring", () =>
  onRing(async (exchange, backend, ownerOf) => {
    const own = pairOf(backend, ownerOf(0));
    const block = exchange.read(own);
    own.forEach((tensor) => tensor.free());
    const blocks = exchange.circulate("k, v", block);
    assertEquals(blocks.length, RANKS - 1);
    for (const keep of [true, false]) {
      for (const [i, coming] of blocks.entries()) {
        const pair = emptyPair(backend, ownerOf(i + 1));
        await exchange.write(coming, pair, { keep });
        await assertPair(backend, pair, ownerOf(i + 1));
      }
    }
    await freeBlock(block);
  }));

Deno.test("each rank gets what all the others have for it, summed on the way", () =>
  onRing(async (exchange, backend, ownerOf) => {
    for (let round = 1; round < RANKS; round++) {
      const part = pairOf(backend, ownerOf(round), 2 ** round); // of the rank that is `round` behind the owner
      const sending = exchange.addAndPass("dk, dv", round, exchange.read(part));
      part.forEach((tensor) => tensor.free());
      await sending;
    }
    const sum = emptyPair(backend, ownerOf(0));
    await exchange.write(exchange.collect("dk, dv"), sum);
    await assertPair(backend, sum, ownerOf(0), 2 + 4);
  }));
