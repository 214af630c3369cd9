/**
 * How a sequence is cut into mini-sequences.
 *
 * @module
 */

/** A mini-sequence: rows `start` to `end` (exclusive). */
export interface Chunk {
  /** First row. */
  readonly start: number;
  /** Last row plus one. */
  readonly end: number;
}

/**
 * Cuts `rows` into `count` mini-sequences whose lengths differ by one at most, longer ones first. With more
 * mini-sequences than rows there is one for each row; there is always at least one. No row is left out.
 *
 * @throws {RangeError} when a number is not usable as a count
 */
export function planChunks(rows: number, count: number): Chunk[] {
  if (!Number.isSafeInteger(rows) || rows < 0) throw new RangeError(`Cannot cut ${rows} rows into mini-sequences`);
  if (!Number.isSafeInteger(count) || count < 1) {
    throw new RangeError(`Cannot cut ${rows} rows into ${count} mini-sequences: the count must be 1 or more`);
  }
  const parts = Math.max(1, Math.min(count, rows));
  const chunks: Chunk[] = [];
  for (let i = 0, start = 0; i < parts; i++) {
    const end = start + Math.floor(rows / parts) + (i < rows % parts ? 1 : 0);
    chunks.push({ start, end });
    start = end;
  }
  return chunks;
}

/** Rows of the longest mini-sequence that {@linkcode planChunks} makes. */
export function longestChunk(rows: number, count: number): number {
  const [first] = planChunks(rows, count);
  return first.end - first.start;
}
