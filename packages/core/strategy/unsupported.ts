/**
 * The error of a strategy that cannot serve a shape.
 *
 * @module
 */

/** Thrown at construction or partition, never in the middle of a step, with the numbers that do not fit. */
export class UnsupportedTopologyError extends RangeError {
  override readonly name = "UnsupportedTopologyError";
}
