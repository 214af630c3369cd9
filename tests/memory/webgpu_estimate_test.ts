import { assertEquals, assertGreaterOrEqual } from "@std/assert";
import { createSingleStrategy, estimateMemory, parseTrainConfig, RECOMPUTE_POLICIES, Trainer } from "@mst/core";
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
