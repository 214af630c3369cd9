/**
 * Which kept memory of the host serves a request.
 *
 * @module
 */

/** Lengths are rounded up to this, so that memory of about the same length serves one another. */
const GRAIN_BYTES = 64 * 1024;

/** Bytes of what is kept for a request of so many. */
export function roundedBytes(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / GRAIN_BYTES)) * GRAIN_BYTES;
}

/** The smallest of `kept` that holds so many bytes, unless it would be wasted on them. */
export function bestFit<Kept extends { readonly byteLength: number }>(
  kept: Iterable<Kept>,
  bytes: number,
): Kept | undefined {
  const wantedBytes = roundedBytes(bytes);
  let best: Kept | undefined;
  for (const each of kept) {
    const fits = each.byteLength >= wantedBytes && each.byteLength <= 2 * wantedBytes;
    if (fits && !(best && best.byteLength <= each.byteLength)) best = each;
  }
  return best;
}
