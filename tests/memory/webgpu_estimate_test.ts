import { assertEquals, assertGreaterOrEqual } from "@std/assert";
import { createSingleStrategy, estimateMemory, parseTrainConfig, RECOMPUTE_POLICIES, Trainer } from "@mst/core";
import { gpuTest } from "../_support/gpu.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

for (const recompute of RECOMPUTE_POLICIES) {
  gpuTest(`the ledger of WebGPU equals the estimate to the byte: recompute ${recompute}`, async (backend) => {
    const model = tinyModel({ dim: 32, headDim: 8, ffn: 88 });
    const train = parseTrainConfig({ seqTokens: 70, recompute, mlpChunks: 3, headChunks: 4 });
    const strategy = createSingleStrategy(backend);
    using trainer = new Trainer({ backend, strategy, model, train });
    for (let step = 1; step <= 2; step++) {
      backend.ledger.resetPeak();
      await trainer.step([randomBatch(model, 70, { seed: step })]);
      const { peakBytes, residentBytes } = estimateMemory(model, train, strategy);
      assertEquals(backend.ledger.peak().totalBytes, peakBytes);
      assertEquals(backend.ledger.liveBytes(), residentBytes);
      assertGreaterOrEqual(backend.peakReservedBytes, peakBytes);
    }
  });
}
