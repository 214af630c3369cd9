import { createSingleStrategy } from "@mst/core";
import { assertGolden, packGolden, readGolden } from "../_support/golden.ts";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";

const SETTINGS = { recompute: "layer", mlpChunks: 3, headChunks: 7 } as const;

for (const name of ["llama3", "llama2", "llama31"]) {
  gpuTest(`${name} on one rank, WebGPU`, async (backend) => {
    await assertGolden(await readGolden(name), backend, createSingleStrategy(backend), SETTINGS);
  });
}

for (const { label, options } of GPU_VARIANTS.filter(({ options }) => options.kernelsFor && !options.maxBindingBytes)) {
  gpuTest(`llama3 in mixed precision, WebGPU${label}`, async (backend) => {
    const run = { ...SETTINGS, precision: "mixed" } as const;
    await assertGolden(await readGolden("llama3"), backend, createSingleStrategy(backend), run);
  }, options);

  gpuTest(`llama3 on one rank, by itself and packed between other documents, WebGPU${label}`, async (backend) => {
    const golden = await readGolden("llama3");
    for (const each of [golden, packGolden(golden)]) {
      await assertGolden(each, backend, createSingleStrategy(backend), SETTINGS);
    }
  }, options);
}
