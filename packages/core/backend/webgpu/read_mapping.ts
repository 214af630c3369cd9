/**
 * Mapping of staging buffers for reading, without the pause that Deno takes.
 *
 * @module
 */

/** What WebGPU wants the offset of a mapped range to be a multiple of. */
export const MAPPED_ALIGNMENT = 8;

/** A staging buffer and how much of it is to be read. */
export interface StagedBytes {
  /** Buffer for copies to and mapping for reading. */
  readonly staging: GPUBuffer;
  /** Bytes from its start. */
  readonly total: number;
}

/** Maps staging buffers that are used again and again. */
export class ReadMapping {
  readonly #mappedBefore = new WeakSet<GPUBuffer>();

  /**
   * Resolves once all of the buffers can be read; the caller unmaps them. The mappings start in the call, so Deno waits
   * for the work handed over so far, and not for what follows.
   *
   * @throws {Error} what the mapping failed with
   */
  async map(staged: readonly StagedBytes[]): Promise<void> {
    const mappings = staged.map(({ staging, total }) => staging.mapAsync(GPUMapMode.READ, 0, total));
    mappings.forEach((mapping) => mapping.catch(() => {})); // one that is not waited for cannot have failed
    if (staged.every((each) => this.#isMapped(each))) return;
    await Promise.all(mappings);
    for (const { staging } of staged) this.#mappedBefore.add(staging);
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

/** Frees a mapped range that is a copy, as Deno's are. */
export function freeCopy(mapped: ArrayBuffer): void {
  try {
    mapped.transfer(0);
  } catch {
    // By the standard it is no copy.
  }
}
