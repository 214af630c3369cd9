/**
 * Freeing of received bytes.
 *
 * @module
 */

const NOTIFY = Symbol("notify");

/** Memory that somebody waits for. */
type Borrowed = ArrayBuffer & { [NOTIFY]?: () => void };

/** Calls `notify` once the bytes of a buffer are released. */
export function whenReleased(buffer: ArrayBuffer, notify: () => void): void {
  (buffer as Borrowed)[NOTIFY] = notify;
}

/** An array to write to: this one, or a copy of what lies in the memory of the rank that sent it, which is released. */
export function writable<View extends Uint8Array | Float32Array>(array: View): View {
  if (!(NOTIFY in array.buffer)) return array;
  const copy = array.slice() as View;
  release(array);
  return copy;
}

/**
 * Frees the memory of bytes that nobody reads any more, and of all other views of the same buffer. Waiting for the
 * garbage collector would cost more than the exchange itself: until it comes, every further message takes fresh pages
 * from the operating system, where a freed one is used again while it is still in the processor's cache. Bytes that lie in
 * memory of the rank that sent them go back to it here and nowhere else.
 */
export function release({ buffer }: ArrayBufferView): void {
  if (!(buffer instanceof ArrayBuffer)) return;
  const borrowed = buffer as Borrowed;
  const notify = borrowed[NOTIFY];
  borrowed[NOTIFY] = undefined;
  buffer.transfer(0); // so that nobody reads what may be written again
  notify?.();
}
