/** Every strategy through the suite of _conformance.ts. */

import type { SequenceStrategy } from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { type AttentionTraffic, type ConformanceShape, type ShapeName, SHAPES, testStrategy } from "./_conformance.ts";

for (const placement of ["zigzag", "contiguous"] as const) {
  testStrategy({
    name: `ring, ${placement},`,
    create: (options) => createRingStrategy({ ...options, placement }),
    traffic: ringTraffic,
    skips: [],
  });
}

const FIFTEEN_HEADS: readonly ShapeName[] = ["fifteen heads in groups of five", "fifteen heads, multi-query"];
const FOUR_HEADS = (Object.keys(SHAPES) as ShapeName[]).filter((name) => !FIFTEEN_HEADS.includes(name));

testStrategy({
  name: "ulysses",
  create: createUlyssesStrategy,
  traffic: ulyssesTraffic,
  skips: [
    {
      shapes: FOUR_HEADS,
      ranks: [3, 5],
      reason: "Cannot split 4 heads across R ranks: heads must be a multiple of the ranks",
    },
    {
      shapes: FIFTEEN_HEADS,
      ranks: [2, 4],
      reason: "Cannot split 15 heads across R ranks: heads must be a multiple of the ranks",
    },
    {
      shapes: ["fifteen heads in groups of five"],
      ranks: [5],
      reason: "Cannot split 3 kv heads across R ranks: " +
        "kv heads must be a multiple of the ranks, or the ranks a multiple of the kv heads",
    },
  ],
});

/** Blocks of k and v, and in backward of dk and dv too, go around the ring. */
function ringTraffic(
  { model, seqTokens, batch }: ConformanceShape,
  { rank, ranks, partition }: SequenceStrategy,
): AttentionTraffic {
  const { positions } = partition(seqTokens);
  const pairBytes = positions.map((block) => 2 * 4 * batch * block.length * model.kvHeads * model.headDim);
  const all = pairBytes.reduce((sum, bytes) => sum + bytes, 0);
  const keys = all - pairBytes[(rank + 1) % ranks]; // every block but the one that the next rank owns
  return { forward: keys, backward: keys + all };
}

/** The own tokens of everyone else's heads, and everyone else's tokens of the own heads. */
function ulyssesTraffic(
  { model, seqTokens, batch }: ConformanceShape,
  { rank, ranks, partition }: SequenceStrategy,
): AttentionTraffic {
  const own = partition(seqTokens).positions[rank].length;
  const headsOf = (heads: number) => Math.max(1, heads / ranks);
  const query = headsOf(model.heads) * model.headDim;
  const qkv = query + 2 * headsOf(model.kvHeads) * model.headDim;
  const [toOthers, back] = [4 * batch * own * (ranks - 1), 4 * batch * (seqTokens - own)];
  return {
    forward: toOthers * qkv + back * query,
    backward: toOthers * (query + model.heads / ranks) + back * qkv, // the gradient of the output with its delta
  };
}
