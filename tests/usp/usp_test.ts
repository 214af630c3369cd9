/** Ulysses inside groups of U ranks, ring across R groups (USP). */

import { assertEquals, assertThrows } from "@std/assert";
import {
  attentionShape,
  createLoopbackGroups,
  createReferenceBackend,
  type SequenceStrategy,
  SHARD_STAGES,
  UnsupportedTopologyError,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { strategyEntry } from "../../packages/bench/scenario.ts";
import { assertAttentionMemory } from "../conformance/_attention_memory.ts";
import {
  assertSameGradients,
  assertSameTraining,
  assertTraffic,
  type AttentionTraffic,
  type StrategyCase,
} from "../conformance/_conformance.ts";
import { type ConformanceShape, FIFTEEN_HEADS, type ShapeName, SHAPES } from "../conformance/_shapes.ts";

/** Ulysses' ranks U, ring's ranks R, and the shapes whose heads fit. */
const TOPOLOGIES: readonly (readonly [number, number, readonly ShapeName[]])[] = [
  [2, 2, ["ragged", "fewer tokens than half blocks", "multi-query, batches", "multi-head, tied", "packed documents"]],
  [2, 3, ["ragged", "fewer tokens than half blocks", "multi-query, batches", "packed documents"]],
  [4, 2, ["ragged", "multi-query, batches", "multi-head, tied", "packed documents, shorter than any block, batches"]],
  [3, 2, FIFTEEN_HEADS],
  [1, 3, ["ragged", "multi-query, batches", "packed documents"]],
  [2, 1, ["ragged", "multi-query, batches", "packed documents"]],
];

for (const [ulysses, ring, names] of TOPOLOGIES) {
  // A ring's own suite covers its placements; here the second one shows that it reaches the ring.
  const placements = ulysses === 2 && ring === 2 ? ["zigzag", "contiguous"] as const : ["zigzag"] as const;
  for (const placement of placements) {
    const usp = uspCase(ulysses, ring, placement);
    for (const name of names) {
      const shape = SHAPES[name];
      Deno.test(`${usp.name} computes what one rank computes, and sends and holds what formulas say: ${name}`, async () => {
        await assertSameGradients(usp, shape, ulysses * ring);
        await assertSameGradients(usp, shape, ulysses * ring, { shard: "weights" });
        if (shape.longestDocument) {
          await assertSameGradients(usp, shape, ulysses * ring, { recompute: "except-attention" });
        }
        await assertTraffic(usp, shape, ulysses * ring);
        await Promise.all(
          createLoopbackGroups(ulysses * ring).map(async (group) => {
            await using backend = createReferenceBackend({ poison: true });
            await assertAttentionMemory(backend, usp.create({ backend, group }), shape);
            await group.close();
          }),
        );
      });
    }
  }
}

for (const [ulysses, ring, name] of [[2, 2, "packed documents"], [4, 2, "multi-query, batches"]] as const) {
  for (const shard of SHARD_STAGES) {
    Deno.test(`usp ${ulysses} × ${ring} trains as one rank does, for ten steps, shard ${shard}: ${name}`, async () => {
      await assertSameTraining(uspCase(ulysses, ring, "zigzag"), SHAPES[name], ulysses * ring, { shard });
    });
  }
}

Deno.test("usp trains as one rank does, updating in backward", async () => {
  const update = { optimizerInBackward: true, clipNorm: 0 };
  await assertSameTraining(uspCase(2, 2, "zigzag"), SHAPES["multi-head, tied"], 4, update);
});

Deno.test("usp gives every position to one rank, ascending, from as many tokens as ranks", async () => {
  for (const [ulysses, ring] of [[2, 2], [2, 3], [3, 2], [3, 3], [4, 2], [5, 3]]) {
    for (const placement of ["zigzag", "contiguous"] as const) {
      const [group] = createLoopbackGroups(ulysses * ring);
      await using backend = createReferenceBackend();
      const strategy = uspCase(ulysses, ring, placement).create({ backend, group });
      for (let tokens = group.size; tokens < 4 * group.size; tokens++) {
        const { positions } = strategy.partition(tokens);
        assertEquals(
          positions.flatMap((own) => [...own]).sort((a, b) => a - b),
          Array.from({ length: tokens }, (_, i) => i),
        );
        for (const own of positions) assertEquals([...own], [...own].sort((a, b) => a - b));
        assertEquals(positions.every(({ length }) => length > 0), true);
      }
      assertThrows(() => strategy.partition(group.size - 1), UnsupportedTopologyError, `across ${group.size} ranks`);
    }
  }
});

Deno.test("ulysses refuses an inner strategy over ranks that do not divide its own", async () => {
  const [group] = createLoopbackGroups(6);
  const [four] = createLoopbackGroups(4);
  await using backend = createReferenceBackend();
  const inner = createRingStrategy({ backend, group: four });
  assertThrows(
    () => createUlyssesStrategy({ backend, group, inner }),
    UnsupportedTopologyError,
    "Cannot split 6 ranks into 4 groups: the ranks must be a multiple of the groups",
  );
});

Deno.test("usp refuses heads that do not fit its groups", async () => {
  const [group] = createLoopbackGroups(6);
  await using backend = createReferenceBackend();
  const strategy = uspCase(3, 2, "zigzag").create({ backend, group });
  const shape = attentionShape(SHAPES.ragged.model, 1);
  assertThrows(
    () => strategy.attention(shape, strategy.partition(37)),
    UnsupportedTopologyError,
    "Cannot split 4 heads across 3 ranks",
  );
});

function uspCase(ulysses: number, ring: number, placement: "zigzag" | "contiguous"): StrategyCase {
  return {
    name: `usp ${ulysses} × ${ring}, ${placement}`,
    create: (context) => strategyEntry("usp").create({ ...context, placement, mesh: { ulysses, ring } }),
    traffic: (shape, strategy) => uspTraffic(shape, strategy, ulysses, ring),
    skips: [],
  };
}

/** Head shards inside the group, blocks of their keys and values around the ring. */
function uspTraffic(
  { model, seqTokens, batch }: ConformanceShape,
  { rank, partition }: SequenceStrategy,
  ulysses: number,
  ring: number,
): AttentionTraffic {
  const lengths = partition(seqTokens).positions.map(({ length }) => length);
  const parts = Array.from(
    { length: ring },
    (_, r) => lengths.slice(r * ulysses, (r + 1) * ulysses).reduce((sum, length) => sum + length, 0),
  );
  const part = Math.floor(rank / ulysses);
  const columns = (heads: number) => Math.max(1, heads / ulysses) * model.headDim;
  const query = columns(model.heads);
  const qkv = query + 2 * columns(model.kvHeads);
  const toOthers = 4 * batch * lengths[rank] * (ulysses - 1);
  const back = 4 * batch * (parts[part] - lengths[rank]);
  const pairBytes = parts.map((tokens) => 2 * 4 * batch * tokens * columns(model.kvHeads));
  const all = ring === 1 ? 0 : pairBytes.reduce((sum, bytes) => sum + bytes, 0);
  const keys = ring === 1 ? 0 : all - pairBytes[(part + 1) % ring];
  const sums = ring === 1 ? 0 : all - pairBytes[part];
  const heads = toOthers * query + back * qkv;
  return {
    forward: toOthers * qkv + back * query + keys,
    backward: heads + keys + sums,
    backwardAfterRecomputation: heads + sums,
    rematerialization: toOthers * qkv, // to the heads; the ring's blocks travel in backward
  };
}
