/** Ring Attention through the suite that every strategy passes. */

import type { SequenceStrategy } from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { type AttentionTraffic, testStrategy } from "../conformance/_conformance.ts";
import type { ConformanceShape } from "../conformance/_shapes.ts";

for (const placement of ["zigzag", "contiguous"] as const) {
  testStrategy({
    name: `ring, ${placement},`,
    create: (options) => createRingStrategy({ ...options, placement }),
    traffic: ringTraffic,
    skips: [],
  });
}

/**
 * Blocks of k and v, and in backward of dk and dv too, go around the ring; sums of dk and dv start behind their owner.
 * After a recomputation k and v are there already; where only attention's output was kept they go around in backward alone.
 */
function ringTraffic(
  { model, seqTokens, batch }: ConformanceShape,
  { rank, ranks, partition }: SequenceStrategy,
): AttentionTraffic {
  const { positions } = partition(seqTokens);
  const pairBytes = positions.map((block) => 2 * 4 * batch * block.length * model.kvHeads * model.headDim);
  const all = pairBytes.reduce((sum, bytes) => sum + bytes, 0);
  const keys = all - pairBytes[(rank + 1) % ranks]; // every block but the one that the next rank owns
  const sums = all - pairBytes[rank];
  return { forward: keys, backward: keys + sums, backwardAfterRecomputation: sums };
}
