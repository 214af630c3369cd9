/**
 * Process groups for tests: every rank lives in the test's own process, linked in memory or over real WebSockets, which
 * this thread holds or a worker of each rank.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createLoopbackGroups } from "../../packages/core/transport/loopback.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import type { ConnectOptions } from "../../packages/core/transport/connect_options.ts";
import { connectProcessGroup } from "../../packages/core/transport/rendezvous.ts";
import { shareMemory } from "../../packages/core/transport/mapped_group.ts";
import { connectWorkerGroup } from "../../packages/core/transport/worker_group.ts";

/** The token of the runs that tests start. */
export const TOKEN = "token of a test run";

/** Time to meet, in which a busy machine starts all ranks, however short their timeout is. */
export const MEETING_MS = 30_000;

/** How to create the groups of a run. */
export interface Transport {
  readonly name: string;
  /** Numbers of ranks that the conformance cases are run with. */
  readonly sizes: readonly number[];
  /** Whether each rank has threads of its own, so that nothing orders what different ranks say. */
  readonly threads: boolean;
  create(size: number, options?: { timeoutMs?: number }): Promise<ProcessGroup[]>;
}

/** The transports that must behave alike. */
export const TRANSPORTS: readonly Transport[] = [
  {
    name: "loopback",
    sizes: [1, 2, 3, 4, 5],
    threads: false,
    create: (size, options) => Promise.resolve(createLoopbackGroups(size, options)),
  },
  { name: "sockets", sizes: [1, 2, 3, 4, 5], threads: false, create: connectGroups },
  {
    name: "workers",
    sizes: [2, 3, 5],
    threads: true,
    create: (size, options) => connectGroups(size, options, connectWorkerGroup),
  },
  {
    name: "several workers",
    sizes: [3],
    threads: true,
    create: (size, options) => connectGroups(size, options, (rank) => connectWorkerGroup({ ...rank, workers: 2 })),
  },
  { name: "mapped memory", sizes: [3], threads: false, create: createMappedGroups },
  {
    name: "mapped memory that is sent from",
    sizes: [2, 3],
    threads: false,
    create: async (size, options) => (await createMappedGroups(size, options)).map(sendingFromMemory),
  },
];

/** Starts rank 0 and gives its address with the promise of its group. */
export async function startRankZero(
  size: number,
  options: Partial<ConnectOptions> = {},
  connect = connectProcessGroup,
): Promise<{ url: string; group: Promise<ProcessGroup> }> {
  const listening = Promise.withResolvers<string>();
  const group = connect({ rank: 0, size, token: TOKEN, onListening: listening.resolve, ...options });
  group.catch(listening.reject);
  return { url: await listening.promise, group };
}

/** Joins a run that rank 0 has started. */
export function joinRun(
  rank: number,
  size: number,
  url: string,
  options: Partial<ConnectOptions> = {},
  connect = connectProcessGroup,
): Promise<ProcessGroup> {
  return connect({ rank, size, token: TOKEN, rendezvous: url, ...options });
}

/** Creates a run whose ranks are linked by WebSockets. */
export async function connectGroups(
  size: number,
  options: { timeoutMs?: number } = {},
  connect = connectProcessGroup,
): Promise<ProcessGroup[]> {
  if (size === 1) return [await connect({ rank: 0, size, token: TOKEN, ...options })];
  const patient = { rendezvousMs: MEETING_MS, ...options };
  const { url, group } = await startRankZero(size, patient, connect);
  const others = Array.from({ length: size - 1 }, (_, index) => joinRun(index + 1, size, url, patient, connect));
  return await Promise.all([group, ...others]);
}

/** Ranks in one process that map each other's memory as processes would. */
export function createMappedGroups(size: number, options: { timeoutMs?: number } = {}): Promise<ProcessGroup[]> {
  return Promise.all(createLoopbackGroups(size, options).map((group) => shareMemory(group, { addressBytes: 2 ** 30 })));
}

/** A group that puts what is exchanged into the group's memory first, as strategies do. */
function sendingFromMemory(group: ProcessGroup): ProcessGroup {
  const { memory } = group;
  const bytesOf = (data: Uint8Array) => {
    const bytes = memory.bytes(data.length);
    bytes.set(data);
    return bytes;
  };
  const floatsOf = (data: Float32Array) => {
    const floats = memory.floats(data.length);
    floats.set(data);
    return floats;
  };
  async function lending<View extends Uint8Array | Float32Array, T>(
    views: View[],
    run: (views: View[]) => Promise<T>,
  ): Promise<T> {
    try {
      return await run(views);
    } finally {
      views.forEach((view) => memory.give(view));
    }
  }
  return new Proxy(group, {
    get(target, name) {
      switch (name) {
        case "send":
          return (to: number, data: Uint8Array, label: string) =>
            lending([bytesOf(data)], ([sent]) => target.send(to, sent, label));
        case "allGather":
          return (data: Uint8Array) => lending([bytesOf(data)], ([sent]) => target.allGather(sent));
        case "allToAll":
          return (parts: Uint8Array[]) => lending(parts.map(bytesOf), (sent) => target.allToAll(sent));
        case "reduceScatter":
          return (data: Float32Array) => lending([floatsOf(data)], ([sent]) => target.reduceScatter(sent));
        case "allReduce":
          return (data: Float32Array) =>
            lending([floatsOf(data)], async ([sent]) => {
              await target.allReduce(sent);
              data.set(sent);
            });
        case "broadcast":
          return (data: Uint8Array | undefined, root: number) =>
            data ? lending([bytesOf(data)], ([sent]) => target.broadcast(sent, root)) : target.broadcast(data, root);
        default: {
          const value = Reflect.get(target, name, target);
          return typeof value === "function" ? value.bind(target) : value;
        }
      }
    },
    set: (target, name, value) => Reflect.set(target, name, value, target),
  });
}

/** Runs the body with a run of `size` ranks and closes all of them afterwards. */
export async function withGroups(
  transport: Transport,
  size: number,
  body: (groups: ProcessGroup[]) => Promise<void>,
  options: { timeoutMs?: number } = {},
): Promise<void> {
  const groups = await transport.create(size, options);
  try {
    await body(groups);
  } finally {
    await Promise.all(groups.map((group) => group.close()));
  }
}

/** Waits. */
export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Bytes that tell where they came from: no two stretches of a message, or two messages, are alike. */
export function patternBytes(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(length / 4));
  for (let index = 0; index < words.length; index++) words[index] = Math.imul(index + 1, 0x9e3779b1) + seed;
  return new Uint8Array(words.buffer, 0, length).slice();
}

/** Compares long byte arrays quickly. */
export function sameBytes(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}
