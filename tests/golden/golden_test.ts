import { createLoopbackGroups, createReferenceBackend, createSingleStrategy } from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { assertGolden, packGolden, readGolden } from "../_support/golden.ts";

const CASES = ["llama3", "llama2", "llama31"];

for (const name of CASES) {
  for (const recompute of ["none", "selective", "layer"] as const) {
    Deno.test(`${name} on one rank, reference backend, recompute ${recompute}`, async () => {
      const golden = await readGolden(name);
      await using backend = createReferenceBackend({ poison: true });
      await assertGolden(golden, backend, createSingleStrategy(backend), { recompute, mlpChunks: 3, headChunks: 7 });
    });
  }

  Deno.test(`${name} in mixed precision, on one rank and over a ring of 3, reference backend`, async () => {
    const golden = await readGolden(name);
    await using backend = createReferenceBackend({ poison: true });
    await assertGolden(golden, backend, createSingleStrategy(backend), {
      precision: "mixed",
      mlpChunks: 3,
      headChunks: 7,
    });
    await Promise.all(
      createLoopbackGroups(3).map(async (group) => {
        await using backend = createReferenceBackend({ poison: true });
        await assertGolden(golden, backend, createRingStrategy({ backend, group }), { precision: "mixed" });
        await group.close();
      }),
    );
  });

  Deno.test(`${name} packed between other documents, on one rank and over a ring of 3, reference backend`, async () => {
    const golden = packGolden(await readGolden(name));
    await using backend = createReferenceBackend({ poison: true });
    await assertGolden(golden, backend, createSingleStrategy(backend), { mlpChunks: 3, headChunks: 7 });
    await Promise.all(
      createLoopbackGroups(3).map(async (group) => {
        await using backend = createReferenceBackend({ poison: true });
        await assertGolden(golden, backend, createRingStrategy({ backend, group }));
        await group.close();
      }),
    );
  });

  for (const ranks of [2, 4]) {
    Deno.test(`${name} by ulysses over ${ranks} ranks, reference backend`, async () => {
      const golden = await readGolden(name);
      await Promise.all(
        createLoopbackGroups(ranks).map(async (group) => {
          await using backend = createReferenceBackend({ poison: true });
          await assertGolden(golden, backend, createUlyssesStrategy({ backend, group }));
          await group.close();
        }),
      );
    });
  }

  for (const ranks of [2, 4]) {
    Deno.test(`${name} by megatron over ${ranks} ranks, reference backend`, async () => {
      const golden = await readGolden(name);
      await Promise.all(
        createLoopbackGroups(ranks).map(async (group) => {
          await using backend = createReferenceBackend({ poison: true });
          await assertGolden(golden, backend, createMegatronStrategy({ backend, group }));
          await group.close();
        }),
      );
    });
  }

  for (const ranks of [1, 2, 3, 4]) {
    Deno.test(`${name} over a ring of ${ranks}, reference backend`, async () => {
      const golden = await readGolden(name);
      await Promise.all(
        createLoopbackGroups(ranks).map(async (group) => {
          await using backend = createReferenceBackend({ poison: true });
          const placement = ranks === 3 ? "contiguous" : "zigzag";
          await assertGolden(golden, backend, createRingStrategy({ backend, group, placement }));
          await group.close();
        }),
      );
    });
  }
}
