/**
 * Shapes and element types of tensors.
 *
 * @module
 */

/**
 * Element type of a tensor: floats of 32 bits, or of 16 bits (IEEE 754 binary16, and bfloat16), for numbers; unsigned
 * integers of 32 bits for token ids and positions. Elements of 16 bits lie in pairs, two in a word of 32 bits: the
 * last dim of such a tensor, and the element that it starts at, are even.
 */
export type DType = "f32" | "f16" | "bf16" | "u32";

/** Bytes of one f32 or u32 element, which is one word. */
export const ELEMENT_BYTES = 4;

/** Bytes of one element. */
export function elementBytes(dtype: DType): number {
  return dtype === "f16" || dtype === "bf16" ? 2 : ELEMENT_BYTES;
}

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
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/**
 * Checks that elements of 16 bits lie in pairs.
 *
 * @param offset first element within the storage
 * @throws {RangeError} when the last dim or the offset is odd
 */
export function checkPairs(shape: Shape, dtype: DType, offset = 0): void {
  if (elementBytes(dtype) !== 2) return;
  if ((shape.at(-1) ?? 1) % 2 !== 0) {
    throw new RangeError(
      `Cannot use shape [${shape}] of ${dtype}: the last dim must be even, as elements lie in pairs`,
    );
  }
  if (offset % 2 !== 0) {
    throw new RangeError(
      `Cannot start a ${dtype} tensor of shape [${shape}] at element ${offset}: it must be even, as elements lie in pairs`,
    );
  }
}
