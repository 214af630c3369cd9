/**
 * Memory of the host that all ranks of a host map: what a rank puts there, the others read where it lies.
 *
 * A memory file starts with its name and with a count for each region of how many receivers still read it. The rank that
 * sends adds to the count, who releases what it received takes away, and the owner hands a region out again once it is
 * given back and its count is zero. So nobody waits and no message says that memory is free.
 *
 * @module
 */

import type { HostMemory } from "../memory/host_memory.ts";
import { bestFit, roundedBytes } from "./best_fit.ts";
import { createMemoryFile, type MemoryFile, openMemoryFile } from "./memory_file.ts";
import { whenReleased } from "./release.ts";

/** Random bytes that tell a rank's memory from any other. */
export const NAME_BYTES = 16;

/** Regions of a rank; it takes other memory beyond. */
const MAX_REGIONS = 2 ** 14;

const COUNTS_AT = 64;
const REGIONS_AT = COUNTS_AT + MAX_REGIONS * Int32Array.BYTES_PER_ELEMENT;

/** Addresses of a rank's memory, of which only what is used takes memory. */
const DEFAULT_BYTES = 2 ** 36;

/** Where bytes are in the memory of a rank. */
export interface Place {
  readonly region: number;
  /** From the start of the memory. */
  readonly start: number;
  readonly bytes: number;
}

/** A rank's memory as it or another rank maps it. */
export class MappedMemory {
  /** Bytes that nobody else's memory starts with. */
  readonly name: Uint8Array;
  readonly #file: MemoryFile;
  readonly #counts: Int32Array;

  protected constructor(file: MemoryFile) {
    this.#file = file;
    this.name = new Uint8Array(file.view(0, NAME_BYTES));
    this.#counts = new Int32Array(file.view(COUNTS_AT, REGIONS_AT - COUNTS_AT));
  }

  /**
   * Maps the memory of another rank.
   *
   * @throws {Error} where this process cannot reach it
   */
  static open(path: string, bytes: number): MappedMemory {
    return new MappedMemory(openMemoryFile(path, bytes));
  }

  /** Where processes of this host find it. */
  get path(): string {
    return this.#file.path;
  }

  /** Counts a receiver. */
  lend({ region }: Place): void {
    Atomics.add(this.#counts, region, 1);
  }

  /** The bytes of a place where they lie; releasing them counts the receiver off. */
  borrow({ region, start, bytes }: Place): Uint8Array<ArrayBuffer> {
    const buffer = this.#file.view(start, bytes);
    whenReleased(buffer, () => void Atomics.sub(this.#counts, region, 1));
    return new Uint8Array(buffer);
  }

  /** Whether a receiver still reads a region. */
  protected isLent(region: number): boolean {
    return Atomics.load(this.#counts, region) > 0;
  }

  /** The memory of a region. */
  protected view(start: number, bytes: number): ArrayBuffer {
    return this.#file.view(start, bytes);
  }
}

/** A part of a rank's own memory. */
interface Region {
  readonly index: number;
  readonly start: number;
  readonly byteLength: number;
  readonly buffer: ArrayBuffer;
  isTaken: boolean;
}

/** This rank's memory, which it hands out. */
export class OwnMappedMemory extends MappedMemory implements HostMemory {
  readonly #bytes: number;
  readonly #regions: Region[] = [];
  readonly #byBuffer = new WeakMap<ArrayBufferLike, Region>();
  #end = REGIONS_AT;

  private constructor(file: MemoryFile, bytes: number) {
    super(file);
    this.#bytes = bytes;
    crypto.getRandomValues(this.name as Uint8Array<ArrayBuffer>);
  }

  /**
   * Creates the memory of a rank.
   *
   * @param bytes of addresses; beyond them it hands out memory that nobody else maps
   * @throws {Error} where the system has no such memory
   */
  static create(bytes: number = DEFAULT_BYTES): OwnMappedMemory {
    return new OwnMappedMemory(createMemoryFile(bytes), bytes);
  }

  /** Addresses of the memory. */
  get bytesOfAddresses(): number {
    return this.#bytes;
  }

  floats(length: number): Float32Array {
    return new Float32Array(this.#take(length * Float32Array.BYTES_PER_ELEMENT), 0, length);
  }

  bytes(length: number): Uint8Array {
    return new Uint8Array(this.#take(length), 0, length);
  }

  give({ buffer }: ArrayBufferView): void {
    const region = this.#byBuffer.get(buffer);
    if (region) region.isTaken = false;
  }

  /** Where an array is that this memory handed out, or a part of one; nothing for other arrays. */
  placeOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Place | undefined {
    const region = this.#byBuffer.get(buffer);
    return region && { region: region.index, start: region.start + byteOffset, bytes: byteLength };
  }

  #take(bytes: number): ArrayBuffer {
    const unused = this.#regions.values().filter(({ index, isTaken }) => !isTaken && !this.isLent(index));
    const region = bestFit(unused, bytes) ?? this.#addRegion(roundedBytes(bytes));
    if (!region) return new ArrayBuffer(bytes);
    region.isTaken = true;
    return region.buffer;
  }

  #addRegion(bytes: number): Region | undefined {
    const [index, start] = [this.#regions.length, this.#end];
    if (index === MAX_REGIONS || start + bytes > this.#bytes) return undefined;
    const region = { index, start, byteLength: bytes, buffer: this.view(start, bytes), isTaken: false };
    this.#end += bytes;
    this.#regions.push(region);
    this.#byBuffer.set(region.buffer, region);
    return region;
  }
}
