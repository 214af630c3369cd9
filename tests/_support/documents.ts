/**
 * Layouts of documents packed into sequences.
 *
 * @module
 */

import { Random } from "./random.ts";

/** Where the document of each position starts [B·S], from the lengths of the documents of each sequence. */
export function documentStarts(lengths: readonly (readonly number[])[]): Uint32Array {
  return Uint32Array.from(lengths.flatMap((ofSequence) => {
    let start = 0;
    return ofSequence.flatMap((length) => {
      const rows = Array(length).fill(start);
      start += length;
      return rows;
    });
  }));
}

/** Lengths of documents that fill a sequence, from 1 to `longest` tokens, the last one cut. */
export function randomLengths(seqTokens: number, longest: number, random: Random): number[] {
  const lengths: number[] = [];
  for (let left = seqTokens; left > 0; left -= lengths.at(-1)!) {
    lengths.push(Math.min(left, 1 + random.integer(longest)));
  }
  return lengths;
}
