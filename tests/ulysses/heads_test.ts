import { assertEquals, assertThrows } from "@std/assert";
import {
  checkHeadSplit,
  createLoopbackGroups,
  createReferenceBackend,
  parseTrainConfig,
  type ProcessGroup,
  Trainer,
  UnsupportedTopologyError,
} from "@mst/core";
import { createUlyssesStrategy } from "@mst/ulysses";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

Deno.test("a run is refused for its heads before anything starts, with the numbers", () => {
  const accepted = [[12, 12, 4], [12, 4, 4], [12, 2, 4], [12, 1, 12], [12, 6, 3], [8, 8, 1], [12, 2, 6]];
  for (const [heads, kvHeads, ranks] of accepted) checkHeadSplit({ heads, kvHeads }, ranks);
  const refused = [
    [12, 12, 8, "Cannot split 12 heads across 8 ranks: heads must be a multiple of the ranks"],
    [4, 2, 8, "Cannot split 4 heads across 8 ranks: heads must be a multiple of the ranks"],
    [
      12,
      6,
      4,
      "Cannot split 6 kv heads across 4 ranks: kv heads must be a multiple of the ranks, or the ranks a multiple of the kv heads",
    ],
  ] as const;
  for (const [heads, kvHeads, ranks, message] of refused) {
    const error = assertThrows(() => checkHeadSplit({ heads, kvHeads }, ranks), UnsupportedTopologyError);
    assertEquals(error.message, message);
  }
});

/** A group whose all-to-all arrives after as many turns of the event loop as `turns` says. */
function delayed(group: ProcessGroup, turns: () => number): ProcessGroup {
  return new Proxy(group, {
    get(target, name) {
      const value = Reflect.get(target, name, target);
      if (name !== "allToAll") return typeof value === "function" ? value.bind(target) : value;
      return async (parts: readonly Uint8Array[]) => {
        for (let turn = turns(); turn > 0; turn--) await new Promise((resolve) => setTimeout(resolve));
        return await target.allToAll(parts);
      };
    },
    set: (target, name, value) => Reflect.set(target, name, value, target),
  });
}

Deno.test("gradients of shared kv heads are the same to the bit in whatever order ranks arrive", async () => {
  const model = tinyModel({ kvHeads: 1 });
  const train = parseTrainConfig({ seqTokens: 21 });
  const orders = [(rank: number) => rank, (rank: number) => 4 - rank, (rank: number) => (rank * 3) % 4];
  const runs = await Promise.all(orders.map(async (turns) => {
    const reports = await Promise.all(
      createLoopbackGroups(4).map(async (group) => {
        await using backend = createReferenceBackend();
        const strategy = createUlyssesStrategy({ backend, group: delayed(group, () => turns(group.rank)) });
        using trainer = new Trainer({ backend, strategy, model, train });
        return await trainer.gradients([randomBatch(model, train.seqTokens)]);
      }),
    );
    return reports[0].gradients;
  }));
  for (const gradients of runs) assertEquals(gradients, runs[0]);
});

Deno.test("a layer takes four exchanges, each with one read of the device", async () => {
  const model = tinyModel({ layers: 3 });
  const train = parseTrainConfig({ seqTokens: 16, recompute: "none" });
  await Promise.all(
    createLoopbackGroups(2).map(async (group) => {
      await using backend = createReferenceBackend();
      let reads = 0;
      const readAll = backend.readAll.bind(backend);
      backend.readAll = (tensors, into) => {
        reads++;
        return readAll(tensors, into);
      };
      const strategy = createUlyssesStrategy({ backend, group });
      using trainer = new Trainer({ backend, strategy, model, train });
      await trainer.step([randomBatch(model, train.seqTokens)]);
      assertEquals(group.stats.collectives.allToAll, 4 * model.layers);
      assertEquals(
        reads,
        4 * model.layers + 1,
        "one read an exchange, one of the loss; gradients are copied meanwhile",
      );
    }),
  );
});
