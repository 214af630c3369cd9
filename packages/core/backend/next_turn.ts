/**
 * Letting others go first.
 *
 * @module
 */

/** Resolves once everyone else has had a turn, who may have work for the device before it is waited for. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
