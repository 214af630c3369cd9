/**
 * Freeing of received bytes.
 *
 * @module
 */

/**
 * Frees the memory of bytes that nobody reads any more, and of all other views of the same buffer. Waiting for the
 * garbage collector would cost more than the exchange itself: until it comes, every further message takes fresh pages
 * from the operating system, where a freed one is used again while it is still in the processor's cache.
 */
export function release({ buffer }: ArrayBufferView): void {
  if (buffer instanceof ArrayBuffer) buffer.transfer(0);
}
