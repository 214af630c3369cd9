/**
 * Token embedding. Dims: T rows, D width, V vocabulary.
 *
 * @module
 */

/** out [T, D] = table [V, D] at ids [T]. Throws a `RangeError` for an id outside the table. */
export function embedding(ids: Uint32Array, table: Float32Array, out: Float32Array, width: number): void {
  const vocabulary = table.length / width;
  for (let row = 0; row < ids.length; row++) {
    const id = ids[row];
    if (id >= vocabulary) {
      throw new RangeError(`Cannot run embedding on id ${id} of row ${row}: ids must be below ${vocabulary}`);
    }
    out.set(table.subarray(id * width, (id + 1) * width), row * width);
  }
}

/** dTable [V, D] += rows of dOut [T, D] by id; see `Ops.embeddingBackward`. */
export function embeddingBackward(
  order: Uint32Array,
  segments: Uint32Array,
  dOut: Float32Array,
  dTable: Float32Array,
  width: number,
): void {
  const sums = new Float64Array(width);
  for (let i = 0; i < segments.length; i += 3) {
    const [id, first, end] = segments.subarray(i, i + 3);
    sums.fill(0);
    for (let j = first; j < end; j++) {
      const from = order[j] * width;
      for (let d = 0; d < width; d++) sums[d] += dOut[from + d];
    }
    for (let d = 0; d < width; d++) dTable[id * width + d] += sums[d];
  }
}
