/** Blocks of several pieces, and of different lengths, on their way around a ring. */

import { assert, assertEquals } from "@std/assert";
import {
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  type DType,
  ExchangeClock,
  SharedMemory,
  tensorFrom,
} from "@mst/core";
import {
  type BlockExchange,
  createBlockExchange,
  freeBlock,
  type Pair,
  PIECE_WORDS,
} from "../../packages/ring/block_exchange.ts";

/** Elements of a matrix on each rank: more than a piece, less than one, exactly two. */
const ELEMENTS = [PIECE_WORDS + 6, 8, 2 * PIECE_WORDS];
const RANKS = ELEMENTS.length;

/** Element `i` of a matrix; sums over ranks are exact, in f16 too. */
const valueOf = (owner: number, matrix: number, i: number) => 100 * owner + 10 * matrix + (i % 7);

function pairOf(backend: Backend, owner: number, dtype: DType, scale = 1): Pair {
  return [0, 1].map((matrix) => {
    const values = Float32Array.from({ length: ELEMENTS[owner] }, (_, i) => scale * valueOf(owner, matrix, i));
    return tensorFrom(backend, values, [values.length], "communication", dtype);
  }) as unknown as Pair;
}

async function assertPair(backend: Backend, pair: Pair, owner: number, scale = 1): Promise<void> {
  for (const [matrix, values] of (await backend.readAll(pair)).entries()) {
    assertEquals(values.length, ELEMENTS[owner]);
    assert(values.every((value, i) => value === scale * valueOf(owner, matrix, i)), `matrix ${matrix} of ${owner}`);
  }
  pair.forEach((tensor) => tensor.free());
}

function emptyPair(backend: Backend, owner: number, dtype: DType): Pair {
  return [0, 1].map(() => backend.empty([ELEMENTS[owner]], "communication", dtype)) as unknown as Pair;
}

async function onRing(
  dtype: DType,
  body: (exchange: BlockExchange, backend: Backend, ownerOf: (round: number) => number) => Promise<void>,
): Promise<void> {
  await Promise.all(
    createLoopbackGroups(RANKS).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const [clock, memory] = [new ExchangeClock(), new SharedMemory()];
      const exchange = createBlockExchange({ backend, group, clock, memory, elements: ELEMENTS, dtype });
      await body(exchange, backend, (round) => (group.rank - round + RANKS) % RANKS);
      await group.barrier();
      assertEquals(backend.ledger.liveBytes(), 0);
      await group.close();
    }),
  );
}

for (const dtype of ["f32", "f16"] as const) {
  Deno.test(`blocks of ${dtype} of all ranks pass by each rank, piece by piece, in the order of the ring`, () =>
    onRing(dtype, async (exchange, backend, ownerOf) => {
      const own = pairOf(backend, ownerOf(0), dtype);
      const block = exchange.read(own);
      own.forEach((tensor) => tensor.free());
      const blocks = exchange.circulate("k, v", block);
      assertEquals(blocks.length, RANKS - 1);
      for (const keep of [true, false]) {
        for (const [i, coming] of blocks.entries()) {
          const pair = emptyPair(backend, ownerOf(i + 1), dtype);
          await exchange.write(coming, pair, { keep });
          await assertPair(backend, pair, ownerOf(i + 1));
        }
      }
      await freeBlock(block);
    }));

  Deno.test(`each rank gets what all the others have for it in ${dtype}, summed on the way`, () =>
    onRing(dtype, async (exchange, backend, ownerOf) => {
      for (let round = 1; round < RANKS; round++) {
        const part = pairOf(backend, ownerOf(round), dtype, 2 ** round); // of the rank that is `round` behind the owner
        const sending = exchange.addAndPass("dk, dv", round, exchange.read(part));
        part.forEach((tensor) => tensor.free());
        await sending;
      }
      const sum = emptyPair(backend, ownerOf(0), dtype);
      await exchange.write(exchange.collect("dk, dv"), sum);
      await assertPair(backend, sum, ownerOf(0), 2 + 4);
    }));
}
