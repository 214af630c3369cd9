/**
 * A micro-batch of token ids and labels, whole and per rank.
 *
 * @module
 */

import { IGNORED_LABEL } from "../backend/ops.ts";

/** A micro-batch: rows are batch-major, row = b · S + s. */
export interface TokenBatch {
  /** Sequences B. */
  readonly batch: number;
  /** Token ids [B·S]. */
  readonly inputs: Uint32Array;
  /** Ids to predict [B·S], already shifted; `IGNORED_LABEL` where there is no target. */
  readonly labels: Uint32Array;
  /**
   * Where sequences are packed from documents: for each row the position in its sequence at which its document starts
   * [B·S]. A row attends within its document alone, and its rotary position counts from that start. Left out: every
   * sequence is one document.
   */
  readonly documentStarts?: Uint32Array;
}

/** Micro-batch from windows of S + 1 tokens: each window's first S are inputs, its last S are labels. */
export function batchFromWindows(windows: readonly Uint32Array[]): TokenBatch {
  const seqTokens = windows[0].length - 1;
  const inputs = new Uint32Array(windows.length * seqTokens);
  const labels = new Uint32Array(windows.length * seqTokens);
  for (const [b, window] of windows.entries()) {
    inputs.set(window.subarray(0, seqTokens), b * seqTokens);
    labels.set(window.subarray(1), b * seqTokens);
  }
  return { batch: windows.length, inputs, labels };
}

/** Micro-batch from sequences of S tokens that predict themselves: the last position of each has no label. */
export function batchFromSequences(sequences: readonly Uint32Array[]): TokenBatch {
  return batchFromWindows(sequences.map((tokens) => Uint32Array.from([...tokens, IGNORED_LABEL])));
}

/** Number of labels that count in the loss. */
export function validTokens({ labels }: TokenBatch): number {
  return labels.reduce((count, label) => count + (label === IGNORED_LABEL ? 0 : 1), 0);
}

/** The numbers of `batch` sequences at the given positions of each: one rank's part of ids or labels. */
export function localRows(all: Uint32Array, batch: number, positions: Uint32Array): Uint32Array {
  const seqTokens = all.length / batch;
  const local = new Uint32Array(batch * positions.length);
  for (let b = 0; b < batch; b++) {
    positions.forEach((position, i) => local[b * positions.length + i] = all[b * seqTokens + position]);
  }
  return local;
}

/**
 * Refuses a micro-batch that a model cannot take.
 *
 * @throws {RangeError} naming the first id or label outside the vocabulary, or a wrong length
 */
export function checkBatch({ batch, inputs, labels }: TokenBatch, seqTokens: number, vocab: number): void {
  const rows = batch * seqTokens;
  if (inputs.length !== rows || labels.length !== rows) {
    throw new RangeError(
      `Cannot use a batch of ${inputs.length} inputs and ${labels.length} labels: wanted ${batch} x ${seqTokens}`,
    );
  }
  const badInput = inputs.findIndex((id) => id >= vocab);
  if (badInput >= 0) {
    throw new RangeError(
      `Cannot embed token ${inputs[badInput]} at row ${badInput}: the vocabulary has ${vocab} tokens`,
    );
  }
  const badLabel = labels.findIndex((label) => label >= vocab && label !== IGNORED_LABEL);
  if (badLabel >= 0) {
    throw new RangeError(`Cannot use label ${labels[badLabel]} at row ${badLabel}: the vocabulary has ${vocab} tokens`);
  }
}
