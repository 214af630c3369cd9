/**
 * How blocks travel around the ring: from each rank to the next, host memory to host memory.
 *
 * @module
 */

import type { Backend, ExchangeClock, ProcessGroup, Tensor } from "@mst/core";

/** A pair of host arrays of a block: k and v, or dk and dv. */
export type HostBlock = readonly [Float32Array, Float32Array];

/** The exchanges of one ring. Every promise also counts as handled, so that one error does not hide behind another. */
export interface BlockExchange {
  /** Reads a pair of tensors; the copy is ordered now, and the tensors may be freed at once. */
  read(backend: Backend, pair: readonly [Tensor, Tensor]): Promise<HostBlock>;
  /** Sends a block to the next rank as soon as it is there, and returns the block that the previous rank sends. */
  pass(what: string, round: number, block: Promise<HostBlock>): Promise<HostBlock>;
  /**
   * Adds what earlier ranks computed for this round's block (nothing in round 0, which starts with its owner) and sends
   * the sum to the next rank.
   */
  addAndPass(what: string, round: number, part: Promise<HostBlock>): Promise<void>;
  /** The own block back from its way around the ring. */
  collect(what: string): Promise<HostBlock>;
}

/** Exchanges between neighbours of a group of at least two ranks. */
export function createBlockExchange(group: ProcessGroup, clock: ExchangeClock): BlockExchange {
  const { rank, size } = group;
  const next = (rank + 1) % size;
  const previous = (rank + size - 1) % size;

  async function send(block: HostBlock, label: string): Promise<void> {
    for (const part of block) {
      await group.send(next, new Uint8Array(part.buffer, part.byteOffset, part.byteLength), label);
    }
  }

  async function receive(label: string): Promise<HostBlock> {
    return [floats(await group.recv(previous, label)), floats(await group.recv(previous, label))];
  }

  return {
    read: (backend, pair) => handled(backend.readAll(pair) as Promise<unknown> as Promise<HostBlock>),

    pass(what: string, round: number, block: Promise<HostBlock>): Promise<HostBlock> {
      const label = `${what}, round ${round}`;
      return handled(clock.exchange(async () => {
        const [received] = await Promise.all([receive(label), block.then((own) => send(own, label))]);
        return received;
      }));
    },

    addAndPass(what: string, round: number, part: Promise<HostBlock>): Promise<void> {
      return handled(clock.exchange(async () => {
        const earlier = round > 0 ? await receive(`${what}, round ${round}`) : undefined;
        const sum = await part;
        if (earlier) sum.forEach((values, i) => addInto(values, earlier[i]));
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

function floats(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / Float32Array.BYTES_PER_ELEMENT);
}

function addInto(sum: Float32Array, values: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] += values[i];
}
