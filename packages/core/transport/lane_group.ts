/**
 * Several process groups of the same ranks as one, so that several threads share the exchange.
 *
 * @module
 */
import type { ConnectOptions } from "./connect_options.ts";
import { PeerError, type PeerFailure } from "./errors.ts";
import type { HostMemory } from "../memory/host_memory.ts";
import type { ProcessGroup, TransportStats } from "./process_group.ts";
import { addStats, statsSince } from "./stats.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** Connects one group. */
export type Connect = (options: ConnectOptions) => Promise<ProcessGroup>;

/**
 * Connects `lanes` groups: the first as told, and the others at free ports that rank 0 tells through the first. Messages
 * take the lane of their label, collectives take turns, so that each rank finds both on the lane that the others use.
 *
 * @throws what `connect` throws
 */
export async function connectLanes(connect: Connect, options: ConnectOptions, lanes: number): Promise<ProcessGroup> {
  const first = await connect(options);
  if (lanes === 1 || options.size === 1) return first;
  const groups = [first];
  try {
    while (groups.length < lanes) groups.push(await connectFurther(connect, options, first));
    return new LaneGroup(groups);
  } catch (error) {
    for (const group of groups) group.abort(error as Error);
    await Promise.all(groups.map((group) => group.close()));
    throw error;
  }
}

async function connectFurther(connect: Connect, options: ConnectOptions, first: ProcessGroup): Promise<ProcessGroup> {
  // What is left out was the first group's to settle: where rank 0 is, and what ranks have to agree on.
  const { port: _, advertise: _a, rendezvous: _r, settings: _s, onListening: _l, onWaiting: _w, ...plain } = options;
  if (options.rank > 0) {
    const url = await first.broadcast(undefined, 0);
    return await connect({ ...plain, rendezvous: new TextDecoder().decode(url) });
  }
  const listening = Promise.withResolvers<string>();
  const connecting = connect({ ...plain, onListening: listening.resolve });
  connecting.catch(listening.reject);
  const url = new TextEncoder().encode(await listening.promise);
  const [group] = await Promise.all([connecting, first.broadcast(url, 0)]);
  return group;
}

class LaneGroup implements ProcessGroup {
  readonly rank: number;
  readonly size: number;
  readonly #lanes: readonly ProcessGroup[];
  readonly #before: TransportStats;
  readonly #controller = new AbortController();
  #failure: PeerFailure | undefined;
  #calls = 0;

  constructor(lanes: readonly ProcessGroup[]) {
    this.rank = lanes[0].rank;
    this.size = lanes[0].size;
    this.#lanes = lanes;
    this.#before = this.#allStats();
    for (const { signal } of lanes) {
      const end = () => this.#end(signal.reason);
      signal.addEventListener("abort", end);
      if (signal.aborted) end();
    }
  }

  get step(): number {
    return this.#lanes[0].step;
  }

  set step(step: number) {
    for (const lane of this.#lanes) lane.step = step;
  }

  get stats(): TransportStats {
    return statsSince(this.#allStats(), this.#before);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get memory(): HostMemory {
    return this.#lanes[0].memory;
  }

  send(to: number, data: Uint8Array, label: string): Promise<void> {
    return this.#run(this.#laneOf(label).send(to, data, label));
  }

  recv(from: number, label: string): Promise<Bytes> {
    return this.#run(this.#laneOf(label).recv(from, label));
  }

  allGather(data: Uint8Array): Promise<Bytes[]> {
    return this.#run(this.#nextLane().allGather(data));
  }

  reduceScatter(data: Float32Array): Promise<Float32Array<ArrayBuffer>> {
    return this.#run(this.#nextLane().reduceScatter(data));
  }

  allReduce(data: Float32Array): Promise<void> {
    return this.#run(this.#nextLane().allReduce(data));
  }

  allToAll(parts: readonly Uint8Array[]): Promise<Bytes[]> {
    return this.#run(this.#nextLane().allToAll(parts));
  }

  broadcast(data: Uint8Array | undefined, root: number): Promise<Bytes> {
    return this.#run(this.#nextLane().broadcast(data, root));
  }

  barrier(): Promise<void> {
    return this.#run(this.#nextLane().barrier());
  }

  abort(reason: Error): void {
    for (const lane of this.#lanes) lane.abort(reason);
  }

  async close(): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.close()));
  }

  /** The first failure of a lane is that of all. */
  #end(reason: Error): void {
    if (this.#controller.signal.aborted) return;
    if (reason instanceof PeerError) this.#failure = reason.failure;
    this.#controller.abort(reason);
    this.abort(reason); // which ends the other lanes, and comes here again
  }

  /** Puts what ends a call down to the first failure, which the lane of the call may have learnt from this rank. */
  async #run<T>(call: Promise<T>): Promise<T> {
    try {
      return await call;
    } catch (error) {
      if (error instanceof PeerError && this.#failure) throw new PeerError(this.#failure, error.stopped);
      throw error;
    }
  }

  /** By FNV-1a, which sends labels that count up by turns. */
  #laneOf(label: string): ProcessGroup {
    let hash = 0x811c9dc5;
    for (let i = 0; i < label.length; i++) hash = Math.imul(hash ^ label.charCodeAt(i), 0x01000193);
    return this.#lanes[(hash >>> 0) % this.#lanes.length];
  }

  #nextLane(): ProcessGroup {
    return this.#lanes[this.#calls++ % this.#lanes.length];
  }

  #allStats(): TransportStats {
    return this.#lanes.map(({ stats }) => stats).reduce(addStats);
  }
}
