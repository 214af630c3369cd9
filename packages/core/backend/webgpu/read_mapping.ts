/**
 * Mapping of kept staging buffers for reading: as the standard says, and as Deno does it.
 *
 * @module
 */

/** What WebGPU wants the offset of a mapped range to be a multiple of. */
export const MAPPED_ALIGNMENT = 8;

/**
 * Bytes that are copied to given memory at once where a mapped range is a copy itself: one that is short and freed at
 * once stays in the processor's cache.
 */
const WINDOW_BYTES = 2 ** 20;

/** A staging buffer and how much of it is to be read. */
export interface StagedBytes {
  /** Buffer for copies to and mapping for reading. */
  readonly staging: GPUBuffer;
  /** Bytes from its start. */
  readonly total: number;
}

/** How staging buffers are mapped, and what is mapped is taken. */
export interface ReadMapping {
  /**
   * Resolves once all of the buffers can be read; the caller unmaps them. The mappings start in the call.
   *
   * @throws {Error} what the mapping failed with
   */
  map(staged: readonly StagedBytes[]): Promise<void>;
  /** Copies bytes of a mapped buffer from `at`, a multiple of {@linkcode MAPPED_ALIGNMENT}; each once a mapping. */
  copy(staging: GPUBuffer, at: number, into: Uint8Array): void;
  /** As `copy` into memory of its own. */
  take(staging: GPUBuffer, at: number, bytes: number): Uint8Array<ArrayBuffer>;
}

/** By the standard: a mapped range is the memory itself, is there when the promise resolves, and ends with `unmap`. */
export class MemoryMapping implements ReadMapping {
  async map(staged: readonly StagedBytes[]): Promise<void> {
    await Promise.all(staged.map(({ staging, total }) => staging.mapAsync(GPUMapMode.READ, 0, total)));
  }

  copy(staging: GPUBuffer, at: number, into: Uint8Array): void {
    into.set(new Uint8Array(staging.getMappedRange(at, into.length)));
  }

  take(staging: GPUBuffer, at: number, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(staging.getMappedRange(at, bytes)).slice();
  }
}

/** Deno's: a mapped range is a copy, and the promise resolves 10 ms after the buffer is mapped. */
export class CopyMapping implements ReadMapping {
  readonly #mappedBefore = new WeakSet<GPUBuffer>();

  async map(staged: readonly StagedBytes[]): Promise<void> {
    // Deno waits here for the work handed over so far, and not for what follows.
    const mappings = staged.map(({ staging, total }) => staging.mapAsync(GPUMapMode.READ, 0, total));
    mappings.forEach((mapping) => mapping.catch(() => {})); // one that is not waited for cannot have failed
    if (staged.every((each) => this.#isMapped(each))) return;
    await Promise.all(mappings);
    for (const { staging } of staged) this.#mappedBefore.add(staging);
  }

  copy(staging: GPUBuffer, at: number, into: Uint8Array): void {
    for (let done = 0; done < into.length; done += WINDOW_BYTES) {
      const mapped = staging.getMappedRange(at + done, Math.min(WINDOW_BYTES, into.length - done));
      into.set(new Uint8Array(mapped), done);
      freeCopy(mapped);
    }
  }

  /** The copy outlives the mapping once it is moved to another array buffer. */
  take(staging: GPUBuffer, at: number, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(staging.getMappedRange(at, bytes).transfer());
  }

  /**
   * Whether a buffer whose mapping has been started can be read already. Deno blocks in the call until the buffer is
   * mapped, and then sleeps 10 ms before it says so. By the standard, and in Deno for a buffer that was never mapped
   * before, the range is there only after that.
   */
  #isMapped({ staging, total }: StagedBytes): boolean {
    if (!this.#mappedBefore.has(staging)) return false;
    try {
      freeCopy(staging.getMappedRange(0, Math.min(total, MAPPED_ALIGNMENT)));
      return true;
    } catch {
      return false;
    }
  }
}

function freeCopy(mapped: ArrayBuffer): void {
  mapped.transfer(0);
}
