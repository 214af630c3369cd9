/**
 * What every transport must do, for any number of ranks. A transport's test supplies only the groups.
 *
 * @module
 */
import { assert, assertEquals, assertNotStrictEquals, assertRejects } from "@std/assert";
import { pairedSegment, PIECE_FLOATS } from "../../packages/core/transport/collectives.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import { Random } from "../_support/random.ts";
import { delay, patternBytes, sameBytes } from "./_groups.ts";
import { checkTraffic, onRanks, ringReduceMessages, ringReduceTraffic, segmentLength } from "./_traffic.ts";

const MIB = 1024 * 1024;

/** One property that is asserted of a run. */
export interface ConformanceCase {
  readonly name: string;
  run(groups: ProcessGroup[]): Promise<void>;
}

/** Properties that hold for 1 rank and more. */
export const CONFORMANCE_CASES: readonly ConformanceCase[] = [
  { name: "ranks know their place", run: knowTheirPlace },
  { name: "messages of any length arrive whole", run: sendAnyLength },
  { name: "labels keep exchanges apart and each keeps its order", run: keepLabelsApart },
  { name: "data may change once it is sent", run: reuseSentData },
  { name: "results belong to the caller", run: ownResults },
  { name: "all-gather takes uneven lengths and sends the least", run: gatherUneven },
  { name: "reduce-scatter sums ragged segments", run: scatterRagged },
  { name: "all-reduce is bitwise the same on all ranks", run: reduceBitwise },
  { name: "all-to-all takes uneven lengths and sends the least", run: exchangeUneven },
  { name: "broadcast reaches all from any root", run: broadcastFromAnyRoot },
  { name: "barrier waits for the last rank", run: waitAtBarrier },
  { name: "collectives may overlap one another and other exchanges", run: overlap },
  { name: "misuse is refused before anything is sent", run: refuseMisuse },
  { name: "a close in order lets every message arrive", run: closeInOrder },
];

function knowTheirPlace(groups: ProcessGroup[]): Promise<void> {
  assertEquals(groups.map((group) => group.rank), groups.map((_, index) => index));
  for (const group of groups) {
    assertEquals(group.size, groups.length);
    assertEquals(group.step, 0);
    assertEquals(group.stats, { bytesSent: 0, bytesReceived: 0, messagesSent: 0, collectives: {} });
    assert(!group.signal.aborted);
  }
  return Promise.resolve();
}

async function sendAnyLength(groups: ProcessGroup[]): Promise<void> {
  for (const length of [0, 1, 7, 4096, MIB / 16 - 1, MIB / 16, 5 * MIB, 16 * MIB, 16 * MIB + 1, 21 * MIB + 5]) {
    await onPairs(groups, async (from, to) => {
      if (length > 4096 && to.rank !== (from.rank + 1) % groups.length) return;
      const data = patternBytes(length, from.rank);
      const [received] = await Promise.all([to.recv(from.rank, "any"), from.send(to.rank, data, "any")]);
      assert(sameBytes(received, data), `${length} bytes from ${from.rank} to ${to.rank}`);
      assertEquals([received.byteOffset, received.buffer.byteLength], [0, length]);
    });
  }
}

async function keepLabelsApart(groups: ProcessGroup[]): Promise<void> {
  await onPairs(groups, async (from, to) => {
    for (const [label, value] of [["b", 1], ["a", 2], ["b", 3], ["a", 4], ["π ", 5]] as const) {
      await from.send(to.rank, new Uint8Array([value]), label);
    }
    const received = await Promise.all(["a", "π ", "b", "a", "b"].map((label) => to.recv(from.rank, label)));
    assertEquals(received.map(([value]) => value), [2, 5, 1, 4, 3]);
  });
}

async function reuseSentData(groups: ProcessGroup[]): Promise<void> {
  await onPairs(groups, async (from, to) => {
    const data = patternBytes(17 * MIB, 1);
    await from.send(to.rank, data, "reused");
    data.fill(0);
    assert(sameBytes(await to.recv(from.rank, "reused"), patternBytes(17 * MIB, 1)));
  });
}

async function ownResults(groups: ProcessGroup[]): Promise<void> {
  const data = groups.map((_, rank) => patternBytes(8, rank));
  const gathered = await onRanks(groups, (group) => group.allGather(data[group.rank]));
  const floats = groups.map(() => new Float32Array(8));
  const scattered = await onRanks(groups, (group) => group.reduceScatter(floats[group.rank]));
  const parts = groups.map((group) => groups.map((_, to) => patternBytes(8, 8 * group.rank + to)));
  const exchanged = await onRanks(groups, (group) => group.allToAll(parts[group.rank]));
  const cast = await onRanks(groups, (group) => group.broadcast(group.rank === 0 ? data[0] : undefined, 0));
  for (const { rank } of groups) {
    assertNotStrictEquals(gathered[rank][rank].buffer, data[rank].buffer);
    assertNotStrictEquals(scattered[rank].buffer, floats[rank].buffer);
    assertNotStrictEquals(exchanged[rank][rank].buffer, parts[rank][rank].buffer);
    assertNotStrictEquals(cast[rank].buffer, data[0].buffer);
  }
}

async function gatherUneven(groups: ProcessGroup[]): Promise<void> {
  const size = groups.length;
  for (const unit of [0, 1, 1001, 3 * MIB]) {
    const data = groups.map((_, rank) => patternBytes(unit * ((rank + 1) % 3), rank));
    const total = data.reduce((sum, { length }) => sum + length, 0);
    await checkTraffic(groups, (group) => ({
      run: async () => {
        const gathered = await group.allGather(data[group.rank]);
        assertEquals(gathered.length, size);
        gathered.forEach((bytes, rank) => assert(sameBytes(bytes, data[rank])));
      },
      bytesSent: total - data[(group.rank + 1) % size].length,
      bytesReceived: total - data[group.rank].length,
      messagesSent: size - 1,
      collectives: { allGather: 1 },
    }));
  }
}

async function scatterRagged(groups: ProcessGroup[]): Promise<void> {
  const size = groups.length;
  for (const length of [0, 1, 7, 1000, size * PIECE_FLOATS, 1_300_001]) {
    const data = groups.map((_, rank) => Float32Array.from({ length }, (_, index) => (index % 97) * (rank + 1)));
    const ranksSummed = size * (size + 1) / 2;
    await checkTraffic(groups, (group) => {
      const { start, end } = pairedSegment(length, size, group.rank);
      return {
        run: async () => {
          const sum = await group.reduceScatter(data[group.rank]);
          // Products and sums of small integers: exact in f32, whatever the order.
          assertEquals(
            sum,
            Float32Array.from({ length: end - start }, (_, index) => ((start + index) % 97) * ranksSummed),
          );
          assertEquals(data[group.rank][length - 1], length ? ((length - 1) % 97) * (group.rank + 1) : undefined);
        },
        bytesSent: size === 1 ? 0 : 4 * (length - (end - start)),
        bytesReceived: size === 1 ? 0 : 4 * (length - segmentLength(length, size, group.rank - 1)),
        messagesSent: size === 1 ? 0 : ringReduceMessages(length, size, group.rank),
        collectives: { reduceScatter: 1 },
      };
    });
  }
}

async function reduceBitwise(groups: ProcessGroup[]): Promise<void> {
  const size = groups.length;
  for (const length of [0, 1, 5, 4099, size * PIECE_FLOATS, 1_200_001]) {
    const data = groups.map((_, rank) => new Random(1000 * rank + length).normals(length));
    const inputs = data.map((values) => values.slice());
    await checkTraffic(groups, (group) => ({
      run: () => group.allReduce(data[group.rank]),
      ...ringReduceTraffic(length, size, group.rank),
      collectives: { allReduce: 1 },
    }));
    for (const values of data) assert(sameBytes(asBytes(values), asBytes(data[0])), "every rank has the same bits");
    for (let index = 0; index < length; index += 1 + length % 17) {
      const exact = inputs.reduce((sum, values) => sum + values[index], 0);
      const scale = inputs.reduce((sum, values) => sum + Math.abs(values[index]), 0);
      // Each of the size - 1 additions rounds a partial sum, which is at most the sum of magnitudes, by 2^-24 of itself.
      assert(Math.abs(data[0][index] - exact) <= size * 2 ** -24 * scale, `sum of element ${index}`);
    }
  }
}

async function exchangeUneven(groups: ProcessGroup[]): Promise<void> {
  const size = groups.length;
  const lengthOf = (from: number, to: number) => 1000 * from + 37 * to + (from === 0 && to === 1 ? 9 * MIB : 0);
  const parts = groups.map((_, from) => groups.map((_, to) => patternBytes(lengthOf(from, to), 8 * from + to)));
  const ranks = groups.map(({ rank }) => rank);
  await checkTraffic(groups, (group) => ({
    run: async () => {
      const received = await group.allToAll(parts[group.rank]);
      assertEquals(received.length, size);
      received.forEach((bytes, from) => assert(sameBytes(bytes, parts[from][group.rank])));
    },
    bytesSent: sum(ranks.filter((to) => to !== group.rank).map((to) => lengthOf(group.rank, to))),
    bytesReceived: sum(ranks.filter((from) => from !== group.rank).map((from) => lengthOf(from, group.rank))),
    messagesSent: size - 1,
    collectives: { allToAll: 1 },
  }));
}

async function broadcastFromAnyRoot(groups: ProcessGroup[]): Promise<void> {
  const size = groups.length;
  for (const root of groups.keys()) {
    const data = patternBytes(10_007 * root, root);
    await checkTraffic(groups, (group) => {
      const place = (group.rank - root + size) % size;
      // In a binomial tree a place has a child at each power of two below its lowest set bit that is still in the run.
      const children = [1, 2, 4].filter((step) => place % (2 * step) === 0 && place + step < size).length;
      return {
        run: async () => {
          assert(sameBytes(await group.broadcast(group.rank === root ? data : undefined, root), data));
        },
        bytesSent: children * data.length,
        bytesReceived: place === 0 ? 0 : data.length,
        messagesSent: children,
        collectives: { broadcast: 1 },
      };
    });
  }
}

async function waitAtBarrier(groups: ProcessGroup[]): Promise<void> {
  const late = groups.length - 1;
  let lateCame = false;
  await checkTraffic(groups, (group) => ({
    run: async () => {
      if (group.rank === late) {
        await delay(30);
        lateCame = true;
      }
      await group.barrier();
      assert(lateCame, "no rank passes before the last one has come");
    },
    bytesSent: 0,
    bytesReceived: 0,
    messagesSent: Math.ceil(Math.log2(groups.length)),
    collectives: { barrier: 1 },
  }));
}

async function overlap(groups: ProcessGroup[]): Promise<void> {
  const size = groups.length;
  await onRanks(groups, async (group) => {
    const next = (group.rank + 1) % size;
    const previous = (group.rank + size - 1) % size;
    const sums = Array.from({ length: 3 }, (_, call) => Float32Array.of(call, group.rank, 1));
    const ring = size === 1 ? [] : ["k", "v", "dk"].flatMap((label, index) => [
      group.send(next, patternBytes(5 * MIB + index, index), label),
      group.recv(previous, label).then((data) => assert(sameBytes(data, patternBytes(5 * MIB + index, index)))),
    ]);
    await Promise.all([...sums.map((data) => group.allReduce(data)), group.barrier(), ...ring]);
    assertEquals(sums.map((data) => [...data]), [0, 1, 2].map((call) => [call * size, size * (size - 1) / 2, size]));
  });
}

async function refuseMisuse(groups: ProcessGroup[]): Promise<void> {
  const [group] = groups;
  const data = new Uint8Array(1);
  const other = groups.length === 1 ? 0 : 1;
  await assertRejects(() => group.send(group.rank, data, "self"), RangeError, "Cannot send between rank 0 and rank 0");
  await assertRejects(() => group.recv(groups.length, "far"), RangeError, "wanted another rank from 0");
  await assertRejects(() => group.recv(-1, "negative"), RangeError);
  await assertRejects(() => group.send(0.5, data, "half"), RangeError);
  await assertRejects(() => group.send(other, data, ""), RangeError, "label of 0 bytes");
  await assertRejects(() => group.send(other, data, "é".repeat(513)), RangeError, "label of 1026 bytes");
  await assertRejects(() => group.recv(other, "allReduce#1 round 0"), RangeError, "# is kept for collectives");
  await assertRejects(() => group.allToAll(groups.concat(groups).map(() => data)), RangeError, "wanted one each");
  await assertRejects(() => group.broadcast(data, groups.length), RangeError, "Cannot broadcast from rank");
  await assertRejects(() => group.broadcast(undefined, 0), TypeError, "Cannot broadcast from this rank without data");
  assertEquals([group.stats.bytesSent, group.stats.messagesSent], [0, 0]);
}

async function closeInOrder(groups: ProcessGroup[]): Promise<void> {
  await onPairs(groups, (from, to) => from.send(to.rank, patternBytes(5 * MIB, from.rank), "last"));
  const closing = groups[0].close();
  await onRanks(groups.slice(1), async (group) => {
    for (const { rank } of groups) {
      if (rank !== group.rank) assert(sameBytes(await group.recv(rank, "last"), patternBytes(5 * MIB, rank)));
    }
    assert(!group.signal.aborted, "an orderly leave is no failure");
  });
  await Promise.all([closing, ...groups.slice(1).map((group) => group.close())]);
}

async function onPairs(
  groups: readonly ProcessGroup[],
  work: (from: ProcessGroup, to: ProcessGroup) => Promise<void>,
): Promise<void> {
  await Promise.all(groups.flatMap((from) => groups.filter((to) => to !== from).map((to) => work(from, to))));
}

function asBytes(data: Float32Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
