import { assertEquals, assertRejects } from "@std/assert";
import type { ConnectOptions } from "../../packages/core/transport/connect_options.ts";
import { PeerError } from "../../packages/core/transport/errors.ts";
import { connectLanes } from "../../packages/core/transport/lane_group.ts";
import { createLoopbackGroups } from "../../packages/core/transport/loopback.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import { connectWorkerGroup } from "../../packages/core/transport/worker_group.ts";
import { onRanks } from "./_traffic.ts";

const OPTIONS = { size: 2, token: "secret", settings: { model: "tiny" } };

/** Connects each lane in memory; keeps what every call was told, and the groups of each lane. */
function lanesInMemory() {
  const lanes: ProcessGroup[][] = [];
  const told: ConnectOptions[] = [];
  const connected = [0, 0];
  const connect = (options: ConnectOptions) => {
    const lane = connected[options.rank]++;
    lanes[lane] ??= createLoopbackGroups(2);
    told.push(options);
    if (options.rank === 0) options.onListening?.(`ws://lane-${lane}`);
    return Promise.resolve(lanes[lane][options.rank]);
  };
  return { lanes, told, connect };
}

function connectBoth(connect: (options: ConnectOptions) => Promise<ProcessGroup>, lanes: number) {
  return Promise.all([
    connectLanes(connect, { ...OPTIONS, rank: 0, port: 5 }, lanes),
    connectLanes(connect, { ...OPTIONS, rank: 1, rendezvous: "ws://first" }, lanes),
  ]);
}

Deno.test("further lanes meet where rank 0 says, at free ports", async () => {
  const { told, connect } = lanesInMemory();
  const groups = await connectBoth(connect, 3);
  assertEquals(told.filter(({ rank }) => rank === 0).map(({ port }) => port), [5, undefined, undefined]);
  assertEquals(told.filter(({ rank }) => rank === 1).map(({ rendezvous }) => rendezvous), [
    "ws://first",
    "ws://lane-1",
    "ws://lane-2",
  ]);
  assertEquals(groups[0].stats.collectives, {}, "what lanes tell each other does not count");
  await Promise.all(groups.map((group) => group.close()));
});

Deno.test("labels that count up and collectives are shared evenly", async () => {
  const { lanes, connect } = lanesInMemory();
  const [first, second] = await connectBoth(connect, 2);
  const before = lanes.map(([lane]) => lane.stats.messagesSent);
  for (let i = 0; i < 40; i++) {
    await first.send(1, new Uint8Array(1), `k, round 1, piece ${i}`);
    await second.recv(0, `k, round 1, piece ${i}`);
  }
  assertEquals(lanes.map(([lane], i) => lane.stats.messagesSent - before[i]), [20, 20]);
  for (let i = 0; i < 4; i++) await onRanks([first, second], (group) => group.allReduce(new Float32Array(3)));
  assertEquals(lanes.map(([lane]) => lane.stats.collectives.allReduce), [2, 2]);
  assertEquals(first.stats.collectives, { allReduce: 4 });
  await Promise.all([first.close(), second.close()]);
});

Deno.test("a lane that fails ends the others, and is the reason that every call is given", async () => {
  const { lanes, connect } = lanesInMemory();
  const [first, second] = await connectBoth(connect, 2);
  const waiting = [0, 1, 2, 3].map((i) =>
    assertRejects(() => first.recv(1, `piece ${i}`), PeerError, `Rank 1 aborted the run during recv "piece ${i}"`)
  );
  lanes[1][1].abort(new Error("one lane only"));
  for (const error of await Promise.all(waiting)) assertEquals([error.peer, error.origin], [1, 1]);
  await assertRejects(() => first.barrier(), PeerError, "one lane only");
  await assertRejects(() => second.barrier(), PeerError, "one lane only");
  assertEquals([first.signal.aborted, second.signal.aborted], [true, true]);
  await Promise.all([first.close(), second.close()]);
});

Deno.test("a lane that cannot be connected is the error of the connection, and closes the others", async () => {
  const { lanes, connect } = lanesInMemory();
  const broken = (options: ConnectOptions) =>
    lanes.length > 0 && options.rank === 0 && options.port === undefined
      ? Promise.reject(new Error("no port is free"))
      : connect(options);
  await Promise.all([
    assertRejects(() => connectLanes(broken, { ...OPTIONS, rank: 0, port: 5 }, 2), Error, "no port is free"),
    assertRejects(() => connectLanes(broken, { ...OPTIONS, rank: 1 }, 2), PeerError, "no port is free"),
  ]);
  await assertRejects(() => lanes[0][0].barrier(), PeerError);
});

Deno.test("a number of workers that makes no sense is refused", async () => {
  for (const workers of [0, 1.5, -1, NaN]) {
    await assertRejects(
      () => connectWorkerGroup({ ...OPTIONS, rank: 0, workers }),
      RangeError,
      `Cannot exchange through ${workers} workers: wanted 1 or more`,
    );
  }
});
