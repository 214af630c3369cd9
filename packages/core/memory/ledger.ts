/**
 * The memory ledger: live and peak device bytes by tag.
 *
 * @module
 */

import { MEMORY_TAGS, type MemoryTag } from "../tensor/tensor.ts";
import { MemoryBudgetError } from "./memory_budget_error.ts";

/** Bytes by tag. */
export type BytesByTag = Record<MemoryTag, number>;

/** A peak: its total, and what it was made of at that moment. */
export interface PeakMemory {
  /** Bytes of all tags together at the moment of the highest total. */
  readonly totalBytes: number;
  /** Bytes of each tag at that moment; they add up to `totalBytes`. */
  readonly byTag: BytesByTag;
}

/** Options of a {@linkcode Ledger}. */
export interface LedgerOptions {
  /** Bytes that may be live at a time. Default: any number. */
  readonly budgetBytes?: number;
}

/** Counts the bytes of tensors as they are allocated, retagged and freed. Pure bookkeeping: exact and free of cost. */
export class Ledger {
  /** Bytes that may be live at a time; infinite where nothing bounds them. */
  readonly budgetBytes: number;
  readonly #live: BytesByTag = zeroBytes();
  #liveTotal = 0;
  #peakTotal = 0;
  #atPeak: BytesByTag = zeroBytes();
  readonly #highest: BytesByTag = zeroBytes();

  /** @throws {RangeError} when the budget is negative or not a number */
  constructor({ budgetBytes = Infinity }: LedgerOptions = {}) {
    if (!(budgetBytes >= 0)) {
      throw new RangeError(`Cannot keep to a memory budget of ${budgetBytes} bytes: wanted 0 or more`);
    }
    this.budgetBytes = budgetBytes;
  }

  /**
   * Refuses an allocation that the budget does not allow, before anything is allocated.
   *
   * @throws {MemoryBudgetError} when that many more bytes would exceed the budget
   */
  assertWithinBudget(tag: MemoryTag, bytes: number): void {
    if (this.#liveTotal + bytes <= this.budgetBytes) return;
    throw new MemoryBudgetError(tag, bytes, this.#liveTotal, this.budgetBytes);
  }

  /**
   * Books an allocation.
   *
   * @throws {MemoryBudgetError} when it exceeds the budget; nothing is booked then
   */
  allocate(tag: MemoryTag, bytes: number): void {
    this.assertWithinBudget(tag, bytes);
    this.#live[tag] += bytes;
    this.#liveTotal += bytes;
    this.#highest[tag] = Math.max(this.#highest[tag], this.#live[tag]);
    if (this.#liveTotal > this.#peakTotal) {
      this.#peakTotal = this.#liveTotal;
      this.#atPeak = { ...this.#live };
    }
  }

  /** Books bytes given back. */
  release(tag: MemoryTag, bytes: number): void {
    this.#live[tag] -= bytes;
    this.#liveTotal -= bytes;
  }

  /** Moves bytes from one tag to another; the total stays. */
  retag(from: MemoryTag, to: MemoryTag, bytes: number): void {
    this.#live[from] -= bytes;
    this.#live[to] += bytes;
    this.#highest[to] = Math.max(this.#highest[to], this.#live[to]);
  }

  /** Bytes live at present, of one tag or of all. */
  liveBytes(tag?: MemoryTag): number {
    return tag === undefined ? this.#liveTotal : this.#live[tag];
  }

  /** Bytes live at present, by tag. */
  live(): BytesByTag {
    return { ...this.#live };
  }

  /** The highest total since the start or the last {@linkcode Ledger.resetPeak}, and what it was made of. */
  peak(): PeakMemory {
    return { totalBytes: this.#peakTotal, byTag: { ...this.#atPeak } };
  }

  /** The highest bytes of each tag by itself; reached at different moments, so they need not add up to the peak. */
  highest(): BytesByTag {
    return { ...this.#highest };
  }

  /** Starts counting peaks afresh from what is live. */
  resetPeak(): void {
    this.#peakTotal = this.#liveTotal;
    this.#atPeak = { ...this.#live };
    Object.assign(this.#highest, this.#live);
  }
}

/** A record of zero bytes for every tag. */
export function zeroBytes(): BytesByTag {
  return Object.fromEntries(MEMORY_TAGS.map((tag) => [tag, 0])) as BytesByTag;
}
