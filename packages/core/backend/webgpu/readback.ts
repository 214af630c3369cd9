/**
 * Copies device memory to the host through kept staging buffers.
 *
 * @module
 */

import { sizeClass } from "./buffer_pool.ts";
import type { PooledBuffer } from "./buffer_pool.ts";
import type { CommandQueue } from "./command_queue.ts";
import { DeviceError, type DeviceErrors } from "./device_error.ts";
import { MAPPED_ALIGNMENT, type ReadMapping } from "./read_mapping.ts";

/** Most bytes of one staging buffer; larger reads take several. */
const MAX_STAGING_BYTES = 64 * 2 ** 20;

/** Bytes of staging buffers that are kept between reads, since making one costs more than the copy through it. */
const MAX_IDLE_BYTES = 2 ** 30;

/** A range of a buffer to read; offsets and sizes are multiples of 4. */
export interface ReadRange {
  readonly buffer: PooledBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** Told of a range whose bytes have been read. */
export type OnRead = (range: number, bytes: Uint8Array) => void;

/** A piece of a range that travels in one staging buffer. */
interface Piece {
  readonly source: ReadRange;
  /** Number of the range among those asked for. */
  readonly range: number;
  /** Bytes into the range. */
  readonly start: number;
  /** Bytes into the staging buffer. */
  readonly at: number;
  readonly bytes: number;
}

/** Pieces on their way through a staging buffer. */
interface StagedCopy {
  readonly pieces: readonly Piece[];
  readonly staging: GPUBuffer;
  readonly total: number;
}

/** Reads device memory. */
export class Readback {
  readonly #device: GPUDevice;
  readonly #queue: CommandQueue;
  readonly #errors: DeviceErrors;
  readonly #maxStagingBytes: number;
  /** Unmapped staging buffers, least recently used first. */
  readonly #idle: GPUBuffer[] = [];
  #idleBytes = 0;
  readonly #mapping: ReadMapping;

  /**
   * @param device device to read from
   * @param queue queue of the device, where the copies are encoded
   * @param errors where errors are remembered
   * @param options how staging buffers are mapped, and most bytes of one
   */
  constructor(
    device: GPUDevice,
    queue: CommandQueue,
    errors: DeviceErrors,
    { mapping, maxStagingBytes = MAX_STAGING_BYTES }: { mapping: ReadMapping; maxStagingBytes?: number },
  ) {
    this.#device = device;
    this.#queue = queue;
    this.#errors = errors;
    this.#mapping = mapping;
    this.#maxStagingBytes = maxStagingBytes;
  }

  /**
   * Copies ranges as they are when the call is made, whatever is encoded or freed afterwards. The function that is
   * returned waits for the device and gives the bytes; it has to be called once, and rejects with a `DeviceError` when
   * anything before it or the copy itself has failed. Until then, host memory that the device can write to is needed for
   * all of them at once.
   *
   * @param into arrays of the ranges' lengths to copy to; fresh ones by default
   * @param onRead called with the number and the bytes of each range once they are there
   */
  stage(
    ranges: readonly ReadRange[],
    into?: readonly Uint8Array[],
    onRead: OnRead = () => {},
  ): () => Promise<Uint8Array[]> {
    const copies = planReads(ranges, this.#maxStagingBytes).map((pieces) => this.#copy(pieces));
    this.#queue.flush();
    return () => {
      for (const [range, { bytes }] of ranges.entries()) if (bytes === 0) onRead(range, new Uint8Array(0));
      return this.#take(copies, into ? [...into] : ranges.map(() => new Uint8Array(0)), onRead);
    };
  }

  /** Fills `results`; those that are still empty are made here. */
  async #take(
    copies: readonly StagedCopy[],
    results: Uint8Array[],
    onRead: OnRead,
  ): Promise<Uint8Array[]> {
    await this.#map(copies);
    for (const { pieces, staging } of copies) {
      for (const piece of pieces) {
        // So that the caller can hand over what the device computes, and use what is there, while this thread copies.
        await undefined;
        this.#collect(piece, staging, results);
        if (piece.start + piece.bytes === piece.source.bytes) onRead(piece.range, results[piece.range]);
      }
      staging.unmap();
      this.#keep(staging);
    }
    await this.#errors.settle();
    return results;
  }

  /** Waits until the device has done all that was encoded before. */
  async wait(): Promise<void> {
    this.#queue.flush();
    await this.#device.queue.onSubmittedWorkDone();
    await this.#errors.settle();
  }

  /** Destroys the staging buffers that are kept. */
  destroyAll(): void {
    for (const buffer of this.#idle.splice(0)) buffer.destroy();
    this.#idleBytes = 0;
  }

  #keep(staging: GPUBuffer): void {
    this.#idle.push(staging);
    this.#idleBytes += staging.size;
    while (this.#idleBytes > MAX_IDLE_BYTES) {
      const oldest = this.#idle.shift()!;
      this.#idleBytes -= oldest.size;
      oldest.destroy();
    }
  }

  #copy(pieces: readonly Piece[]): StagedCopy {
    const last = pieces[pieces.length - 1];
    const total = last.at + last.bytes;
    const staging = this.#takeStaging(total);
    this.#queue.encode("copy to the host", pieces.map(({ source }) => source.buffer), (encoder) => {
      for (const { source, start, at, bytes } of pieces) {
        encoder.copyBufferToBuffer(source.buffer.gpu, source.offset + start, staging, at, bytes);
      }
    });
    return { pieces, staging, total };
  }

  #collect({ source, range, start, at, bytes }: Piece, staging: GPUBuffer, results: Uint8Array[]): void {
    if (results[range].length < source.bytes) {
      if (bytes === source.bytes) {
        results[range] = this.#mapping.take(staging, at, bytes);
        return;
      }
      results[range] = new Uint8Array(source.bytes);
    }
    this.#mapping.copy(staging, at, results[range].subarray(start, start + bytes));
  }

  async #map(copies: readonly StagedCopy[]): Promise<void> {
    try {
      await this.#mapping.map(copies);
    } catch (cause) {
      await this.#errors.settle(); // a copy that failed leaves the buffer unmappable, and its own error says why
      const bytes = copies.reduce((sum, { total }) => sum + total, 0);
      throw new DeviceError(`Cannot map ${bytes} bytes for the host: ${(cause as Error).message}`, undefined, {
        cause,
      });
    }
  }

  #takeStaging(bytes: number): GPUBuffer {
    const fitting = this.#idle.filter(({ size }) => size >= bytes).sort((a, b) => a.size - b.size)[0];
    if (fitting) {
      this.#idle.splice(this.#idle.indexOf(fitting), 1);
      this.#idleBytes -= fitting.size;
      return fitting;
    }
    return this.#errors.guard(
      { what: () => `allocate ${bytes} bytes to read through` },
      () =>
        this.#device.createBuffer({
          label: "copy to the host",
          size: sizeClass(bytes),
          usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
        }),
    );
  }
}

/** Splits ranges into groups of pieces that share a staging buffer of at most `maxBytes` bytes, at aligned offsets. */
export function planReads(ranges: readonly ReadRange[], maxBytes: number): Piece[][] {
  const groups: Piece[][] = [];
  let at = maxBytes;
  ranges.forEach((source, range) => {
    for (let start = 0; start < source.bytes;) {
      if (at >= maxBytes) {
        groups.push([]);
        at = 0;
      }
      const bytes = Math.min(maxBytes - at, source.bytes - start);
      groups[groups.length - 1].push({ source, range, start, at, bytes });
      start += bytes;
      at = Math.ceil((at + bytes) / MAPPED_ALIGNMENT) * MAPPED_ALIGNMENT;
    }
  });
  return groups;
}
