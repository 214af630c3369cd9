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

/** Rows of a tile of matrix products: a mini-sequence of whole tiles neither pads the last one nor looks for its edge. */
const TILE_ROWS = 128;

/** Tiles of a mini-sequence from which on it is whole tiles; of fewer, the longest would be too much longer. */
const FEWEST_TILES = 16;

/**
 * Cuts `rows` into `count` mini-sequences whose lengths differ by one at most, longer ones first. Long ones are whole tiles of
 * matrix products, all but the last, so that their lengths differ by less than two tiles. With more mini-sequences than
 * rows there is one for each row; there is always at least one. No row is left out.
 *
 * @throws {RangeError} when a number is not usable as a count
 */
export function planChunks(rows: number, count: number): Chunk[] {
  if (!Number.isSafeInteger(rows) || rows < 0) throw new RangeError(`Cannot cut ${rows} rows into mini-sequences`);
  if (!Number.isSafeInteger(count) || count < 1) {
    throw new RangeError(`Cannot cut ${rows} rows into ${count} mini-sequences: the count must be 1 or more`);
  }
  const parts = Math.max(1, Math.min(count, rows));
  const unit = rows >= parts * FEWEST_TILES * TILE_ROWS ? TILE_ROWS : 1;
  const units = Math.ceil(rows / unit);
  const chunks: Chunk[] = [];
  for (let i = 0, start = 0; i < parts; i++) {
    const end = Math.min(rows, start + unit * (Math.floor(units / parts) + (i < units % parts ? 1 : 0)));
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
