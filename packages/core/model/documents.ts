/**
 * Documents packed into sequences: who starts where, and what a rank cannot work with.
 *
 * @module
 */

import { IGNORED_LABEL } from "../backend/ops.ts";
import { batchFromWindows, type TokenBatch } from "./token_batch.ts";

/** Documents that make up one sequence, each its token ids, in order. */
export type PackedSequence = readonly Uint32Array[];

/**
 * Micro-batch from sequences of documents, all sequences of one length. A token predicts the next of its document; the
 * last one of a document has no label.
 *
 * @throws {RangeError} when a document is empty, or sequences differ in length
 */
export function batchFromDocuments(sequences: readonly PackedSequence[]): TokenBatch {
  const [seqTokens] = sequences.map(lengthOf);
  const rows = sequences.length * seqTokens;
  const [inputs, labels, documentStarts] = [new Uint32Array(rows), new Uint32Array(rows), new Uint32Array(rows)];
  for (const [b, documents] of sequences.entries()) {
    if (lengthOf(documents) !== seqTokens) {
      throw new RangeError(
        `Cannot pack sequence ${b} of ${lengthOf(documents)} tokens beside one of ${seqTokens}: lengths must be equal`,
      );
    }
    let start = 0;
    for (const tokens of documents) {
      const row = b * seqTokens + start;
      inputs.set(tokens, row);
      labels.set(tokens.subarray(1), row);
      labels[row + tokens.length - 1] = IGNORED_LABEL;
      documentStarts.fill(start, row, row + tokens.length);
      start += tokens.length;
    }
  }
  return { batch: sequences.length, inputs, labels, documentStarts };
}

/**
 * Micro-batch from windows of S + 1 tokens of documents that follow one another, each ended by `endToken`, which has no
 * label. A document that goes beyond a window is one of its own in the next.
 */
export function batchFromPackedWindows(windows: readonly Uint32Array[], endToken: number): TokenBatch {
  const { batch, inputs, labels } = batchFromWindows(windows);
  const seqTokens = inputs.length / batch;
  const documentStarts = new Uint32Array(inputs.length);
  inputs.forEach((token, row) => {
    const position = row % seqTokens;
    const isFirst = position === 0 || inputs[row - 1] === endToken;
    documentStarts[row] = isFirst ? position : documentStarts[row - 1];
    if (token === endToken) labels[row] = IGNORED_LABEL;
  });
  return { batch, inputs, labels, documentStarts };
}

/** Documents in a micro-batch; every sequence without boundaries is one. */
export function documentCount({ batch, inputs, documentStarts }: TokenBatch): number {
  if (!documentStarts) return batch;
  const seqTokens = inputs.length / batch;
  return documentStarts.reduce((count, start, row) => count + (start === row % seqTokens ? 1 : 0), 0);
}

/**
 * Refuses boundaries that fit no sequence, and a batch with boundaries where memory is planned without, or the reverse.
 *
 * @throws {RangeError} naming the first row whose start is neither that of the row before nor its own position
 */
export function checkDocuments(
  { batch, documentStarts }: TokenBatch,
  { seqTokens, packed }: { readonly seqTokens: number; readonly packed: boolean },
): void {
  if (!documentStarts) {
    if (packed) throw new RangeError("Cannot train packed on a batch without document starts: every row needs one");
    return;
  }
  if (!packed) {
    throw new RangeError("Cannot use a batch with document starts: the training settings must say that it is packed");
  }
  if (documentStarts.length !== batch * seqTokens) {
    throw new RangeError(
      `Cannot use ${documentStarts.length} document starts for a batch of ${batch} x ${seqTokens}: every row needs one`,
    );
  }
  documentStarts.forEach((start, row) => {
    const position = row % seqTokens;
    if (start === position || (position > 0 && start === documentStarts[row - 1])) return;
    const wanted = position === 0
      ? "0"
      : `${documentStarts[row - 1]} as in the row before, or ${position} to start one`;
    throw new RangeError(`Cannot use document start ${start} at row ${row}: it must be ${wanted}`);
  });
}

function lengthOf(documents: PackedSequence): number {
  return documents.reduce((sum, { length }) => {
    if (length === 0) throw new RangeError("Cannot pack a document of no tokens: it must have at least one");
    return sum + length;
  }, 0);
}
