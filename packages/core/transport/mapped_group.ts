/**
 * The process group of ranks on one host that map each other's memory: a message that lies there is not sent but named, and
 * the receiver reads it where it lies.
 *
 * @module
 */

import type { HostMemory } from "../memory/host_memory.ts";
import { ExchangeGroup } from "./exchange_group.ts";
import { MappedMemory, NAME_BYTES, OwnMappedMemory, type Place } from "./mapped_memory.ts";
import type { ProcessGroup } from "./process_group.ts";

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

class MappedGroup extends ExchangeGroup {
  readonly #group: ProcessGroup;
  readonly #own: OwnMappedMemory;
  /** Of all ranks. */
  readonly #memories: readonly MappedMemory[];
  /** Where messages lie that were received and not released. */
  readonly #received = new WeakMap<ArrayBufferLike, { owner: number; place: Place }>();

  constructor(group: ProcessGroup, own: OwnMappedMemory, memories: readonly MappedMemory[]) {
    super(group.rank, group.size);
    this.#group = group;
    this.#own = own;
    this.#memories = memories;
  }

  get step(): number {
    return this.#group.step;
  }

  set step(step: number) {
    this.#group.step = step;
  }

  get signal(): AbortSignal {
    return this.#group.signal;
  }

  get memory(): HostMemory {
    return this.#own;
  }

  send(to: number, data: Uint8Array, label: string): Promise<void> {
    return this.sendMessage(to, data, label);
  }

  recv(from: number, label: string): Promise<Bytes> {
    return this.recvMessage(from, label);
  }

  abort(reason: Error): void {
    this.#group.abort(reason);
  }

  close(): Promise<void> {
    return this.#group.close();
  }

  protected async sendMessage(to: number, data: Uint8Array, label: string): Promise<void> {
    const lent = this.#lend(data);
    await this.#group.send(to, lent ?? data, label);
    this.counter.sent(data.length);
  }

  protected async recvMessage(from: number, label: string): Promise<Bytes> {
    const message = await this.#group.recv(from, label);
    const bytes = this.#borrow(message) ?? message;
    this.counter.received(bytes.length);
    return bytes;
  }

  protected labelCollective(name: string, call: number): string {
    return `${name} ${call} in memory`;
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
