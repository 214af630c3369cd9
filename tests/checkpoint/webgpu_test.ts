import { assertEquals } from "@std/assert";
import { createSingleStrategy, estimateMemory, parseTrainConfig, readModelWeights, Trainer } from "@mst/core";
import { gpuTest } from "../_support/gpu.ts";
import { withTempDir } from "../_support/temp_dir.ts";
import { randomBatch } from "../_support/tiny_model.ts";
import { MODEL } from "./_training.ts";

gpuTest(
  "on WebGPU a checkpoint goes on to the bit, and takes no memory of the device",
  (backend) =>
    withTempDir(async (folder) => {
      const train = parseTrainConfig({ seqTokens: 40, steps: 4, learningRate: 0.01 });
      const strategy = createSingleStrategy(backend);
      const { peakBytes, residentBytes } = estimateMemory(MODEL, train, strategy);
      const steps = async (trainer: Trainer, from: number, to: number) => {
        const losses = [];
        for (let step = from; step < to; step++) {
          losses.push((await trainer.step([randomBatch(MODEL, 40, { seed: step + 1 })])).loss);
        }
        return losses;
      };
      let straight: number[];
      {
        using trainer = new Trainer({ backend, strategy, model: MODEL, train });
        straight = await steps(trainer, 0, 2);
        backend.ledger.resetPeak();
        await trainer.save(`${folder}/c`);
        assertEquals(backend.ledger.peak().totalBytes, residentBytes, "while it is saved");
        straight.push(...await steps(trainer, 2, 4));
      }
      backend.ledger.resetPeak();
      const weights = await readModelWeights(`${folder}/c`, MODEL);
      using trainer = new Trainer({ backend, strategy, model: MODEL, train, weights });
      await trainer.resume(`${folder}/c`, 2);
      assertEquals(backend.ledger.peak().totalBytes, residentBytes, "while it is read");
      assertEquals(await steps(trainer, 2, 4), straight.slice(2));
      assertEquals(backend.ledger.peak().totalBytes, peakBytes);
    }),
);
