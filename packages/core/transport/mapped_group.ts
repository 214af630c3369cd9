/**
 * The process group of ranks on one host that map each other's memory: a message that lies there is not sent but named, and
 * the receiver reads it where it lies.
 *
 * @module
 */

import * as collectives from "./collectives.ts";
import type { HostMemory } from "../memory/host_memory.ts";
import { MappedMemory, NAME_BYTES, OwnMappedMemory, type Place } from "./mapped_memory.ts";
import type { ProcessGroup, TransportStats } from "./process_group.ts";
import { StatsCounter } from "./stats.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** Options of {@linkcode shareMemory}. */
export interface ShareMemoryOptions {
  /** Bytes of addresses of each rank's memory; what is sent from beyond them is sent as elsewhere. Default 2^36. */
  readonly addressBytes?: number;
}

/**
 * A group over `group` whose `memory` all ranks of it map, where all of them can: on one host, under Linux, with the
 * permission for foreign functions and for files of one another's processes. Elsewhere it is `group` itself. What does not
 * lie in `memory` travels through `group`, as do the names of what does.
 *
 * What is received from a rank's memory stays that rank's: it must not be written to, and has to be released, or the
 * memory is lost to the rank. A collective of all ranks.
 *
 * @throws what the group throws when a rank fails
 */
export async function shareMemory(
  group: ProcessGroup,
  { addressBytes }: ShareMemoryOptions = {},
): Promise<ProcessGroup> {
  if (group.size === 1) return group;
  const own = attempt(() => OwnMappedMemory.create(addressBytes));
  const offer = own ? [own.path, `${own.bytesOfAddresses}`, own.name.toHex()].join() : "";
  const offers = (await group.allGather(new TextEncoder().encode(offer))).map((bytes) =>
    new TextDecoder().decode(bytes)
  );
  const memories = offers.map((text, rank) => rank === group.rank ? own : attempt(() => reach(text)));
  const reached = new Uint8Array([memories.every((memory) => memory !== undefined) ? 1 : 0]);
  const all = (await group.allGather(reached)).every(([isReached]) => isReached === 1);
  return all ? new MappedGroup(group, own!, memories as MappedMemory[]) : group;
}

/** Maps what a rank offers; a process of another host can have a file of the same path, which has another name. */
function reach(offer: string): MappedMemory {
  const [path, bytes, name] = offer.split(",");
  const memory = MappedMemory.open(path, Number(bytes));
  if (memory.name.toHex() !== name) throw new Error(`Cannot map the memory at ${path}: it is another process's`);
  return memory;
}

function attempt<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch {
    return undefined; // nothing is lost but speed
  }
}

/** Bytes in the memory of a rank, as a message names them: name of the memory, owner, region, start, length. */
const NAMED_BYTES = NAME_BYTES + 2 * 4 + 2 * 8;

class MappedGroup implements ProcessGroup {
  readonly rank: number;
  readonly size: number;
  readonly #group: ProcessGroup;
  readonly #own: OwnMappedMemory;
  /** Of all ranks. */
  readonly #memories: readonly MappedMemory[];
  /** Where messages lie that were received and not released. */
  readonly #received = new WeakMap<ArrayBufferLike, { owner: number; place: Place }>();
  readonly #stats = new StatsCounter();
  readonly #exchange: collectives.Exchange;
  #calls = 0;

  constructor(group: ProcessGroup, own: OwnMappedMemory, memories: readonly MappedMemory[]) {
    this.rank = group.rank;
    this.size = group.size;
    this.#group = group;
    this.#own = own;
    this.#memories = memories;
    this.#exchange = {
      rank: group.rank,
      size: group.size,
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
    return this.#own;
  }

  send(to: number, data: Uint8Array, label: string): Promise<void> {
    return this.#send(to, data, label);
  }

  recv(from: number, label: string): Promise<Bytes> {
    return this.#recv(from, label);
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
    return this.#group.close();
  }

  async #send(to: number, data: Uint8Array, label: string): Promise<void> {
    const lent = this.#lend(data);
    await this.#group.send(to, lent ?? data, label);
    this.#stats.sent(data.length);
  }

  async #recv(from: number, label: string): Promise<Bytes> {
    const message = await this.#group.recv(from, label);
    const bytes = this.#borrow(message) ?? message;
    this.#stats.received(bytes.length);
    return bytes;
  }

  /** Counts a receiver of bytes in the memory of any rank, and names them; nothing for bytes elsewhere. */
  #lend(data: Uint8Array): Uint8Array | undefined {
    if (data.length === 0) return undefined;
    const received = this.#received.get(data.buffer);
    const owner = received?.owner ?? this.rank;
    const place = received ? partOf(received.place, data) : this.#own.placeOf(data);
    if (!place) return undefined;
    this.#memories[owner].lend(place);
    return encodeName(this.#memories[owner].name, owner, place);
  }

  /** The bytes that a message names, if it does. */
  #borrow(message: Bytes): Bytes | undefined {
    if (message.length !== NAMED_BYTES) return undefined;
    const { name, owner, place } = decodeName(message);
    const memory = this.#memories[owner];
    if (!memory || memory.name.toHex() !== name) return undefined;
    const bytes = memory.borrow(place);
    this.#received.set(bytes.buffer, { owner, place });
    return bytes;
  }

  #begin(name: string): string {
    this.#stats.collective(name);
    this.#calls += 1;
    return `${name} ${this.#calls} in memory`;
  }
}

function partOf({ region, start }: Place, { byteOffset, byteLength }: Uint8Array): Place {
  return { region, start: start + byteOffset, bytes: byteLength };
}

function encodeName(name: Uint8Array, owner: number, { region, start, bytes }: Place): Uint8Array {
  const message = new Uint8Array(NAMED_BYTES);
  message.set(name);
  const numbers = new DataView(message.buffer, NAME_BYTES);
  numbers.setUint32(0, owner);
  numbers.setUint32(4, region);
  numbers.setFloat64(8, start);
  numbers.setFloat64(16, bytes);
  return message;
}

function decodeName(message: Bytes): { name: string; owner: number; place: Place } {
  const numbers = new DataView(message.buffer, NAME_BYTES);
  return {
    name: message.subarray(0, NAME_BYTES).toHex(),
    owner: numbers.getUint32(0),
    place: { region: numbers.getUint32(4), start: numbers.getFloat64(8), bytes: numbers.getFloat64(16) },
  };
}
