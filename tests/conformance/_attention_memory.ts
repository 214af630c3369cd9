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

/** What attention is tried on. */
interface AttentionRun {
  readonly model: ModelConfig;
  readonly seqTokens: number;
  readonly batch: number;
  readonly longestDocument?: number;
}

/** Asserts that what one rank's attention holds in each of its calls is what the strategy's formulas say, to the byte. */
export async function assertAttentionMemory(
  backend: Backend,
  strategy: SequenceStrategy,
  run: AttentionRun,
): Promise<void> {
  await assertMemoryOfCalls(backend, strategy, run, {});
  await assertMemoryOfCalls(backend, strategy, run, { backwardIsNext: true });
  await assertMemoryOfCalls(backend, strategy, run, { keeps: true });
}

async function assertMemoryOfCalls(
  backend: Backend,
  strategy: SequenceStrategy,
  { model, seqTokens, batch, longestDocument }: AttentionRun,
  { keeps = false, backwardIsNext = false }: { keeps?: boolean; backwardIsNext?: boolean },
): Promise<void> {
  const { ledger } = backend;
  const shape = attentionShape(model, batch);
  const partition = strategy.partition(seqTokens);
  const layout = weightLayout(model, strategy);
  const rows = layout.slices({ batch, positions: partition.positions })
    .reduce((sum, slice) => sum + rowsOfSlice(slice), 0);
  const { documentStarts } = randomBatch(model, seqTokens, { batch, longestDocument });
  const formulas = strategy.attentionMemory(shape, partition, {
    packed: documentStarts !== undefined,
    backwardIsNext,
  });
  const random = new Random(strategy.rank);
  const matrix = (heads: number): Tensor => {
    const tensor = backend.empty([rows, heads * shape.headDim], "activations");
    backend.write(tensor, random.normals(tensor.size));
    return tensor;
  };

  using core = strategy.attention(shape, partition, documentStarts);
  const held = ledger.liveBytes();
  const inputs = () => [matrix(layout.heads), matrix(layout.kvHeads), matrix(layout.kvHeads)] as const;
  const forwardInputs = inputs();
  ledger.resetPeak();
  const { out, saved: whole } = await core.forward(...forwardInputs, { backwardIsNext });
  const forward = ledger.peak().totalBytes - held;
  const savedBytes = ledger.liveBytes() - held;

  let saved = whole;
  let { keptBytes, rematerializeBytes } = formulas; // where nothing is computed again
  if (keeps) {
    const kept = core.keep(whole);
    keptBytes = ledger.liveBytes() - held;
    const again = inputs();
    ledger.resetPeak();
    saved = await core.rematerialize(...again, kept);
    rematerializeBytes = ledger.peak().totalBytes - held;
    assertEquals(ledger.liveBytes() - held, savedBytes);
  }
  out.free();

  const dOut = matrix(layout.heads);
  ledger.resetPeak();
  const gradients = await core.backward(dOut, saved);
  const backward = ledger.peak().totalBytes - held;
  const left = ledger.liveBytes() - held;
  for (const tensor of Object.values(gradients)) tensor.free();

  assertEquals(
    { heldBytes: held, savedBytes, keptBytes, forwardBytes: forward, rematerializeBytes, backwardBytes: backward },
    formulas,
    `rank ${strategy.rank} of ${strategy.ranks}`,
  );
  assertEquals(left, 4 * rows * (layout.heads + 2 * layout.kvHeads) * shape.headDim, "backward leaves the gradients");
  assertEquals(ledger.live().communication, 0);
}
