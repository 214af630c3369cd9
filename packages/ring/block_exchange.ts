/**
 * How blocks travel around the ring: from each rank to the next, host memory to host memory.
 *
 * @module
 */

import {
  addFloats,
  type Backend,
  type ExchangeClock,
  type ProcessGroup,
  type SharedMemory,
  type Tensor,
} from "@mst/core";
import { HostBlock } from "./host_block.ts";

/** The exchanges of one ring. Every promise also counts as handled, so that one error does not hide behind another. */
export interface BlockExchange {
  /** Reads a pair of tensors; the copy is ordered now, and the tensors may be freed at once. */
  read(pair: readonly [Tensor, Tensor]): Promise<HostBlock>;
  /**
   * Passes k and v of all ranks around, each block as soon as it is there. In round i comes the block that rank − i owns;
   * `blocks[i - 1]` of the result is the caller's to free.
   */
  circulate(what: string, own: Promise<HostBlock>): Promise<HostBlock>[];
  /**
   * Adds what earlier ranks computed for this round's block (nothing in round 1, which starts the sum) and sends the sum
   * to the next rank, that in the last round to the block's owner.
   */
  addAndPass(what: string, round: number, part: Promise<HostBlock>): Promise<void>;
  /** The sum over the other ranks for the own block, which is the caller's to free. */
  collect(what: string): Promise<HostBlock>;
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
  readonly memory: SharedMemory;
}

/** Exchanges between neighbours of a group. */
export function createBlockExchange({ backend, group, clock, memory }: BlockExchangeOptions): BlockExchange {
  const { rank, size } = group;
  const next = (rank + 1) % size;
  const previous = (rank + size - 1) % size;

  /** Sends a block and drops its handle. */
  async function send(block: HostBlock, label: string): Promise<void> {
    await Promise.all(block.arrays.map((array) => group.send(next, bytesOf(array), label)));
    block.free();
  }

  async function receive(label: string): Promise<HostBlock> {
    return HostBlock.received(await Promise.all([group.recv(previous, label), group.recv(previous, label)]));
  }

  return {
    read(pair: readonly [Tensor, Tensor]): Promise<HostBlock> {
      const block = HostBlock.allocate(memory, [pair[0].size, pair[1].size]);
      return handled(backend.readAll(pair, block.arrays).then(() => block));
    },

    circulate(what: string, own: Promise<HostBlock>): Promise<HostBlock>[] {
      const blocks = [own];
      for (let round = 1; round < size; round++) {
        const label = `${what}, round ${round}`;
        handled(clock.exchange(() => blocks[round - 1].then((block) => send(block.share(), label))));
        blocks.push(handled(clock.exchange(() => receive(label))));
      }
      return blocks.slice(1);
    },

    addAndPass(what: string, round: number, part: Promise<HostBlock>): Promise<void> {
      return handled(clock.exchange(async () => {
        const earlier = round > 1 ? await receive(`${what}, round ${round}`) : undefined;
        const sum = await part;
        if (earlier) {
          sum.arrays.forEach((values, i) => addFloats(values, earlier.arrays[i], values));
          earlier.free();
        }
        await send(sum, `${what}, round ${round + 1}`);
      }));
    },

    collect(what: string): Promise<HostBlock> {
      return handled(clock.exchange(() => receive(`${what}, round ${size}`)));
    },
  };
}

function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
