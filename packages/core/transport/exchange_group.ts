/**
 * Process groups whose collectives are made of single messages.
 *
 * @module
 */
import type { HostMemory } from "../memory/host_memory.ts";
import * as collectives from "./collectives.ts";
import type { ProcessGroup, TransportStats } from "./process_group.ts";
import { StatsCounter } from "./stats.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** The collectives and the counts of a group; how one message travels is the subclass's part. */
export abstract class ExchangeGroup implements ProcessGroup {
  readonly rank: number;
  readonly size: number;
  /** What this group has exchanged; the subclass counts messages. */
  protected readonly counter = new StatsCounter();
  readonly #exchange: collectives.Exchange;
  #calls = 0;

  /** Creates the group of `size` ranks as `rank` sees it. */
  constructor(rank: number, size: number) {
    this.rank = rank;
    this.size = size;
    this.#exchange = {
      rank,
      size,
      send: (to, data, label) => this.sendMessage(to, data, label),
      recv: (from, label) => this.recvMessage(from, label),
    };
  }

  abstract get step(): number;
  abstract set step(step: number);
  abstract get signal(): AbortSignal;
  abstract get memory(): HostMemory;
  abstract send(to: number, data: Uint8Array, label: string): Promise<void>;
  abstract recv(from: number, label: string): Promise<Bytes>;
  abstract abort(reason: Error): void;
  abstract close(): Promise<void>;

  /** Sends and counts one message under any label. */
  protected abstract sendMessage(to: number, data: Uint8Array, label: string): Promise<void>;
  /** Receives and counts one message under any label. */
  protected abstract recvMessage(from: number, label: string): Promise<Bytes>;
  /** Label of a collective: all ranks call them in the same order, so the numbers agree. */
  protected abstract labelCollective(name: string, call: number): string;

  get stats(): TransportStats {
    return this.counter.snapshot();
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

  #begin(name: string): string {
    this.counter.collective(name);
    this.#calls += 1;
    return this.labelCollective(name, this.#calls);
  }
}
