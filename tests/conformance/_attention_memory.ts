/**
 * The device bytes of attention by itself, held against its closed formulas.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import {
  attentionShape,
  type Backend,
  type ModelConfig,
  rowsOfSlice,
  type SequenceStrategy,
  type Tensor,
  weightLayout,
} from "@mst/core";
import { Random } from "../_support/random.ts";
import { randomBatch } from "../_support/tiny_model.ts";

/** Asserts that forward and backward of one rank's attention reach the strategy's formulas to the byte. */
export async function assertAttentionMemory(
  backend: Backend,
  strategy: SequenceStrategy,
  { model, seqTokens, batch, longestDocument }: {
    model: ModelConfig;
    seqTokens: number;
    batch: number;
    longestDocument?: number;
  },
): Promise<void> {
  const { ledger } = backend;
  const shape = attentionShape(model, batch);
  const partition = strategy.partition(seqTokens);
  const layout = weightLayout(model, strategy);
  const rows = layout.slices({ batch, positions: partition.positions })
    .reduce((sum, slice) => sum + rowsOfSlice(slice), 0);
  const { documentStarts } = randomBatch(model, seqTokens, { batch, longestDocument });
  const formulas = strategy.attentionMemory(shape, partition, { packed: documentStarts !== undefined });
  const random = new Random(strategy.rank);
  const matrix = (heads: number): Tensor => {
    const tensor = backend.empty([rows, heads * shape.headDim], "activations");
    backend.write(tensor, random.normals(tensor.size));
    return tensor;
  };

  using core = strategy.attention(shape, partition, documentStarts);
  const held = ledger.liveBytes();
  const inputs = [matrix(layout.heads), matrix(layout.kvHeads), matrix(layout.kvHeads)] as const;
  ledger.resetPeak();
  const { out, saved } = await core.forward(...inputs);
  const forward = ledger.peak().totalBytes - held;
  const savedBytes = ledger.liveBytes() - held;
  out.free();

  const dOut = matrix(layout.heads);
  ledger.resetPeak();
  const gradients = await core.backward(dOut, saved);
  const backward = ledger.peak().totalBytes - held;
  const left = ledger.liveBytes() - held;
  for (const tensor of Object.values(gradients)) tensor.free();

  assertEquals(
    { heldBytes: held, savedBytes, forwardBytes: forward, backwardBytes: backward },
    formulas,
    `rank ${strategy.rank} of ${strategy.ranks}`,
  );
  assertEquals(left, 4 * rows * (layout.heads + 2 * layout.kvHeads) * shape.headDim, "backward leaves the gradients");
  assertEquals(ledger.live().communication, 0);
}
