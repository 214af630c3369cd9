/** Subgroups must behave as the groups that they are made of, and keep out of one another's way. */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { subgroup } from "../../packages/core/transport/subgroup.ts";
import { PeerError } from "../../packages/core/transport/errors.ts";
import { CONFORMANCE_CASES } from "./_conformance.ts";
import { TRANSPORTS, withGroups } from "./_groups.ts";

const [loopback] = TRANSPORTS;
/** Cases that hold for whole groups only: lengths and ends of links. */
const WHOLE = ["misuse is refused before anything is sent"];

for (const ranks of [[0], [1], [2, 0], [1, 3, 2], [4, 2, 0, 1]]) {
  Deno.test(`transport among ranks ${ranks} of 5`, async (t) => {
    for (const { name, run } of CONFORMANCE_CASES.filter((each) => !WHOLE.includes(each.name))) {
      await t.step(
        name,
        () => withGroups(loopback, 5, (groups) => run(ranks.map((rank) => subgroup(groups[rank], ranks)))),
      );
    }
  });
}

Deno.test("rows, columns and the whole exchange at once without mixing, and the whole counts all", async () => {
  await withGroups(loopback, 6, async (groups) => {
    await Promise.all(groups.map(async (group) => {
      const row = subgroup(group, [0, 1, 2].map((i) => 3 * Math.floor(group.rank / 3) + i));
      const column = subgroup(group, [group.rank % 3, group.rank % 3 + 3]);
      const sums = [row, column, group].map(() => Float32Array.of(group.rank));
      await Promise.all([row.allReduce(sums[0]), column.allReduce(sums[1]), group.allReduce(sums[2])]);
      const first = 3 * Math.floor(group.rank / 3);
      assertEquals(sums.map(([sum]) => sum), [3 * first + 3, 2 * (group.rank % 3) + 3, 15]);
      assertEquals(group.stats.messagesSent, 4 + 2 + 10);
      assertEquals([row, column].map(({ stats }) => stats.messagesSent), [4, 2]);
      row.step = 7;
      assertEquals([group.step, column.step], [7, 7]);
    }));
  });
});

Deno.test("a subgroup's abort ends the whole group", async () => {
  await withGroups(loopback, 3, async (groups) => {
    const waiting = subgroup(groups[1], [1, 2]).recv(1, "never");
    subgroup(groups[0], [0, 1]).abort(new Error("no more"));
    await assertRejects(() => waiting, PeerError, "no more");
    await assertRejects(() => groups[2].barrier(), PeerError, "no more");
  });
});

Deno.test("impossible subgroups and misuse are refused", async () => {
  await withGroups(loopback, 3, async ([group]) => {
    for (const ranks of [[], [1, 2], [0, 0], [0, 3], [0, -1], [0, 0.5]]) {
      assertThrows(() => subgroup(group, ranks), RangeError, "Cannot make a group of ranks");
    }
    const pair = subgroup(group, [0, 2]);
    await assertRejects(() => pair.send(2, new Uint8Array(1), "far"), RangeError, "wanted another rank from 0 to 1");
    await assertRejects(() => pair.recv(0, "self"), RangeError, "wanted another rank from 0 to 1");
    await assertRejects(() => pair.send(1, new Uint8Array(1), ""), RangeError, "label of 0 bytes");
    await assertRejects(() => pair.send(1, new Uint8Array(1), "a#b"), RangeError, "# is kept");
    assertEquals(pair.stats.messagesSent, 0);
  });
});
