/**
 * Memory of the host for what is kept there instead of the device.
 *
 * @module
 */

/**
 * Zeros, which take memory as they are written.
 *
 * @param what names what is kept in an error, such as `checkpoints`
 * @throws {RangeError} when the host has no array of that size
 */
export function hostWords(length: number, what: string): Float32Array<ArrayBuffer> {
  try {
    return new Float32Array(length);
  } catch (cause) {
    throw new RangeError(
      `Cannot keep ${length * Float32Array.BYTES_PER_ELEMENT} bytes of ${what} on the host: allocation failed`,
      { cause },
    );
  }
}
