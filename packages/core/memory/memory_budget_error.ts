/**
 * The error of an allocation beyond a memory budget.
 *
 * @module
 */

import type { MemoryTag } from "../tensor/tensor.ts";

/** Thrown before anything is allocated, so that what is live stays within the budget. */
export class MemoryBudgetError extends RangeError {
  override readonly name = "MemoryBudgetError";

  /**
   * @param tag purpose of the memory
   * @param wantedBytes bytes of the allocation
   * @param liveBytes bytes live beside it
   * @param budgetBytes bytes that may be live
   */
  constructor(
    tag: MemoryTag,
    readonly wantedBytes: number,
    readonly liveBytes: number,
    readonly budgetBytes: number,
  ) {
    super(
      `Cannot allocate ${wantedBytes} bytes for ${tag} beside ${liveBytes} live bytes: ` +
        `the memory budget is ${budgetBytes} bytes`,
    );
  }
}
