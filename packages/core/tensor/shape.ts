/**
 * Shapes and element types of tensors.
 *
 * @module
 */

/** Element type of a tensor: 32-bit floats for numbers, 32-bit unsigned integers for token ids and positions. */
export type DType = "f32" | "u32";

/** Bytes of one element of either {@linkcode DType}. */
export const ELEMENT_BYTES = 4;

/** Dims of a tensor, outermost first, in elements; storage is always contiguous and row-major. */
export type Shape = readonly number[];

/**
 * Number of elements of a shape; 1 for a scalar (no dims).
 *
 * @throws {RangeError} when a dim is negative or not an integer
 */
export function elementCount(shape: Shape): number {
  let count = 1;
  for (const dim of shape) {
    if (!Number.isSafeInteger(dim) || dim < 0) {
      throw new RangeError(`Cannot use shape [${shape}]: dim ${dim} must be a non-negative integer`);
    }
    count *= dim;
  }
  return count;
}

/** Whether two shapes have the same dims. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}
