/** DeepSpeed-Ulysses through the suite that every strategy passes. */

import type { SequenceStrategy } from "@mst/core";
import { createUlyssesStrategy } from "@mst/ulysses";
import { type AttentionTraffic, testStrategy } from "../conformance/_conformance.ts";
import { type ConformanceShape, FIFTEEN_HEADS, FOUR_HEADS } from "../conformance/_shapes.ts";

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
    rematerialization: toOthers * qkv, // and no output
  };
}
