import { assertEquals } from "@std/assert";
import { contiguousPartition, zigZagPartition } from "@mst/core";

Deno.test("partitions give every position to one rank, in ascending order, evenly", () => {
  for (const split of [zigZagPartition, contiguousPartition]) {
    for (const [seqTokens, ranks] of [[1, 1], [5, 5], [7, 4], [64, 3], [257, 8]]) {
      const { positions } = split(seqTokens, ranks);
      const all = positions.flatMap((block) => [...block]);
      assertEquals(all.toSorted((a, b) => a - b), Array.from({ length: seqTokens }, (_, i) => i));
      for (const block of positions) assertEquals([...block], [...block].sort((a, b) => a - b));
      const lengths = positions.map((block) => block.length);
      assertEquals(Math.max(...lengths) - Math.min(...lengths) <= (split === zigZagPartition ? 2 : 1), true);
      assertEquals(Math.min(...lengths) > 0, true);
    }
  }
});

Deno.test("zig-zag gives every rank the same number of query-key pairs, contiguous does not", () => {
  const pairs = (positions: readonly Uint32Array[]) =>
    positions.map((block) => block.reduce((sum, position) => sum + position + 1, 0));
  const [low, high] = [Math.min, Math.max].map((pick) => pick(...pairs(zigZagPartition(1024, 4).positions)));
  assertEquals(high, low);
  const uneven = pairs(contiguousPartition(1024, 4).positions);
  assertEquals(Math.max(...uneven) > 6 * Math.min(...uneven), true);
});
