/** Blocks of a layer whose read takes longer than the whole layer. */

import { assertEquals } from "@std/assert";
import {
  type Backend,
  contiguousPartition,
  createLoopbackGroups,
  createReferenceBackend,
  ExchangeClock,
  type ProcessGroup,
  SharedMemory,
  tensorFrom,
} from "@mst/core";
import { createRingAttention } from "../../packages/ring/ring_attention.ts";

const RANKS = 2;
const LAYERS = 2;
const TOKENS = 3;
const SHAPE = { batch: 1, heads: 1, kvHeads: 1, headDim: 2, scale: 0.5 };

/** Lets the first read of a backend be reported late. */
function delayFirstRead(backend: Backend): void {
  const readAll = backend.readAll.bind(backend);
  let reads = 0;
  backend.readAll = async (tensors, into, onRead = () => {}) => {
    const isFirst = reads++ === 0;
    const values = await readAll(tensors, into);
    if (isFirst) await new Promise((resolve) => setTimeout(resolve, 30));
    tensors.forEach((_, i) => onRead(i));
    return values;
  };
}

/** Attention of two layers one after the other; the outputs of a rank. */
async function attendTwice(backend: Backend, group: ProcessGroup): Promise<number[][]> {
  const partition = contiguousPartition(RANKS * TOKENS, RANKS);
  const memory = new SharedMemory();
  using core = createRingAttention({ backend, group, clock: new ExchangeClock(), memory, shape: SHAPE, partition });
  const outputs: number[][] = [];
  for (let layer = 0; layer < LAYERS; layer++) {
    const matrix = (number: number) => {
      const values = Float32Array.from({ length: 2 * TOKENS }, (_, i) => Math.sin(7 * group.rank + i + number + layer));
      return tensorFrom(backend, values, [TOKENS, 2], "activations");
    };
    const { out, saved } = await core.forward(matrix(0), matrix(1), matrix(2));
    outputs.push([...await backend.read(out)]);
    out.free();
    saved.free();
  }
  return outputs;
}

async function attend({ late }: { late: boolean }): Promise<number[][][]> {
  return await Promise.all(
    createLoopbackGroups(RANKS).map(async (group) => {
      await using backend = createReferenceBackend();
      if (late && group.rank === 0) delayFirstRead(backend);
      const outputs = await attendTwice(backend, group);
      await group.barrier();
      await group.close();
      return outputs;
    }),
  );
}

Deno.test("the blocks of a layer never take the place of those of the layer before, however late these are read", async () => {
  assertEquals(await attend({ late: true }), await attend({ late: false }));
});
