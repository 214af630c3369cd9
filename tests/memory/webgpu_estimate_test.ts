import { assertEquals, assertGreaterOrEqual } from "@std/assert";
import {
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  estimateMemory,
  parseTrainConfig,
  RECOMPUTE_POLICIES,
  Trainer,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { gpuTest } from "../_support/gpu.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

for (
  const [recompute, packed] of [...RECOMPUTE_POLICIES.map((policy) => [policy, false] as const), [
    "layer",
    true,
  ]] as const
) {
  const what = `recompute ${recompute}${packed ? ", packed" : ""}`;
  gpuTest(`the ledger of WebGPU equals the estimate to the byte: ${what}`, async (backend) => {
    const model = tinyModel({ dim: 32, headDim: 8, ffn: 88 });
    const train = parseTrainConfig({ seqTokens: 70, recompute, packed, mlpChunks: 3, headChunks: 4 });
    const strategy = createSingleStrategy(backend);
    using trainer = new Trainer({ backend, strategy, model, train });
    for (let step = 1; step <= 2; step++) {
      backend.ledger.resetPeak();
      await trainer.step([randomBatch(model, 70, { seed: step, longestDocument: packed ? 20 : undefined })]);
      const { peakBytes, residentBytes } = estimateMemory(model, train, strategy);
      assertEquals(backend.ledger.peak().totalBytes, peakBytes);
      assertEquals(backend.ledger.liveBytes(), residentBytes);
      assertGreaterOrEqual(backend.peakReservedBytes, peakBytes);
    }
  });
}

for (const shard of ["gradients", "weights"] as const) {
  gpuTest(`the ledger of WebGPU equals the estimate to the byte: shard ${shard}`, async (gpu) => {
    const model = tinyModel({ dim: 32, headDim: 8, ffn: 88 });
    const train = parseTrainConfig({ seqTokens: 70, shard, mlpChunks: 3, headChunks: 4, accumulate: 2 });
    await using reference = createReferenceBackend();
    const losses = await Promise.all(
      createLoopbackGroups(2).map(async (group) => {
        const backend = [gpu, reference][group.rank];
        const strategy = createRingStrategy({ backend, group });
        using trainer = new Trainer({ backend, strategy, model, train });
        const losses = [];
        for (let step = 1; step <= 2; step++) {
          backend.ledger.resetPeak();
          losses.push((await trainer.step([1, 2].map((i) => randomBatch(model, 70, { seed: 2 * step + i })))).loss);
          const { peakBytes, residentBytes } = estimateMemory(model, train, strategy);
          assertEquals(backend.ledger.peak().totalBytes, peakBytes, `rank ${group.rank}`);
          assertEquals(backend.ledger.liveBytes(), residentBytes, `rank ${group.rank}`);
        }
        await group.close();
        return losses;
      }),
    );
    assertEquals(losses[0], losses[1]);
  });
}
