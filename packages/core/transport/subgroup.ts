/**
 * A process group over some ranks of another.
 *
 * @module
 */
import * as collectives from "./collectives.ts";
import { labelBytes } from "./frame.ts";
import type { HostMemory } from "../memory/host_memory.ts";
import type { ProcessGroup, TransportStats } from "./process_group.ts";
import { StatsCounter } from "./stats.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/**
 * The group of some ranks of `group`, numbered in the order of `ranks`; this rank must be one of them. All of its traffic
 * goes through `group` and is counted there too, its step is that of `group`, and a failure or an abort is that of
 * `group`. Labels carry the ranks, so that exchanges of different subgroups never mix; two subgroups of the same ranks in
 * the same order do. Closing it does nothing, as the links are those of `group`.
 *
 * @throws {RangeError} If a rank is named twice or is none of the group, or if this rank is not among them
 */
export function subgroup(group: ProcessGroup, ranks: readonly number[]): ProcessGroup {
  const isRank = (rank: number) => Number.isInteger(rank) && rank >= 0 && rank < group.size;
  if (!ranks.every(isRank) || new Set(ranks).size !== ranks.length || !ranks.includes(group.rank)) {
    throw new RangeError(
      `Cannot make a group of ranks ${ranks.join(", ")} on rank ${group.rank}: ` +
        `wanted different ranks from 0 to ${group.size - 1}, this one among them`,
    );
  }
  return new Subgroup(group, ranks);
}

class Subgroup implements ProcessGroup {
  readonly rank: number;
  readonly size: number;
  readonly #group: ProcessGroup;
  readonly #ranks: readonly number[];
  readonly #stats = new StatsCounter();
  readonly #exchange: collectives.Exchange;
  #calls = 0;

  constructor(group: ProcessGroup, ranks: readonly number[]) {
    this.rank = ranks.indexOf(group.rank);
    this.size = ranks.length;
    this.#group = group;
    this.#ranks = [...ranks];
    this.#exchange = {
      rank: this.rank,
      size: this.size,
      send: (to, data, label) => this.#send(to, data, label),
      recv: (from, label) => this.#recv(from, label),
    };
  }

  get step(): number {
    return this.#group.step;
  }

  set step(step: number) {
    this.#group.step = step;
  }

  get stats(): TransportStats {
    return this.#stats.snapshot();
  }

  get signal(): AbortSignal {
    return this.#group.signal;
  }

  get memory(): HostMemory {
    return this.#group.memory;
  }

  async send(to: number, data: Uint8Array, label: string): Promise<void> {
    this.#checkPeer(to, "send");
    await this.#send(to, data, this.#labelOf(label));
  }

  async recv(from: number, label: string): Promise<Bytes> {
    this.#checkPeer(from, "receive");
    return await this.#recv(from, this.#labelOf(label));
  }

  allGather(data: Uint8Array): Promise<Bytes[]> {
    return collectives.allGather(this.#exchange, data, this.#begin("allGather"));
  }

  reduceScatter(data: Float32Array): Promise<Float32Array<ArrayBuffer>> {
    return collectives.reduceScatter(this.#exchange, data, this.#begin("reduceScatter"));
  }

  allReduce(data: Float32Array): Promise<void> {
    return collectives.allReduce(this.#exchange, data, this.#begin("allReduce"));
  }

  allToAll(parts: readonly Uint8Array[]): Promise<Bytes[]> {
    return collectives.allToAll(this.#exchange, parts, this.#begin("allToAll"));
  }

  broadcast(data: Uint8Array | undefined, root: number): Promise<Bytes> {
    return collectives.broadcast(this.#exchange, data, root, this.#begin("broadcast"));
  }

  barrier(): Promise<void> {
    return collectives.barrier(this.#exchange, this.#begin("barrier"));
  }

  abort(reason: Error): void {
    this.#group.abort(reason);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async #send(to: number, data: Uint8Array, label: string): Promise<void> {
    await this.#group.send(this.#ranks[to], data, label);
    this.#stats.sent(data.length); // once taken, so that what the group refuses does not count
  }

  async #recv(from: number, label: string): Promise<Bytes> {
    const data = await this.#group.recv(this.#ranks[from], label);
    this.#stats.received(data.length);
    return data;
  }

  #begin(name: string): string {
    this.#stats.collective(name);
    this.#calls += 1;
    return `${name} ${this.#calls} of ranks ${this.#ranks.join()}`;
  }

  #labelOf(label: string): string {
    if (labelBytes(label) === 0) throw new RangeError("Cannot use a label of 0 bytes: wanted 1 or more");
    return `${label} among ranks ${this.#ranks.join()}`;
  }

  #checkPeer(rank: number, action: string): void {
    if (rank !== this.rank && this.#ranks[rank] !== undefined) return;
    throw new RangeError(
      `Cannot ${action} between rank ${this.rank} and rank ${rank}: wanted another rank from 0 to ${this.size - 1}`,
    );
  }
}
