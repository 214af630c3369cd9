/**
 * Softmax cross-entropy. Dims: T rows, V vocabulary.
 *
 * @module
 */

import { IGNORED_LABEL } from "../ops.ts";

/**
 * losses [T], and logits [T, V] become their gradient; see `Ops.crossEntropy`.
 *
 * @throws {RangeError} when a label is neither below V nor {@linkcode IGNORED_LABEL}
 */
export function crossEntropy(logits: Float32Array, labels: Uint32Array, losses: Float32Array, scale: number): void {
  const vocabulary = labels.length === 0 ? 0 : logits.length / labels.length;
  const exponentials = new Float64Array(vocabulary);
  for (let row = 0; row < labels.length; row++) {
    const label = labels[row];
    const logitsOfRow = logits.subarray(row * vocabulary, (row + 1) * vocabulary);
    if (label === IGNORED_LABEL) {
      losses[row] = 0;
      logitsOfRow.fill(0);
      continue;
    }
    if (label >= vocabulary) {
      throw new RangeError(
        `Cannot run crossEntropy on label ${label} of row ${row}: labels must be below ${vocabulary} or ignored`,
      );
    }
    let highest = -Infinity;
    for (let i = 0; i < vocabulary; i++) highest = Math.max(highest, logitsOfRow[i]);
    let total = 0;
    for (let i = 0; i < vocabulary; i++) total += exponentials[i] = Math.exp(logitsOfRow[i] - highest);
    losses[row] = Math.log(total) + highest - logitsOfRow[label];
    for (let i = 0; i < vocabulary; i++) logitsOfRow[i] = exponentials[i] / total * scale;
    logitsOfRow[label] = (exponentials[label] / total - 1) * scale;
  }
}

/** out [T, 2] = log-sum-exp and logit at the label of each row; see `Ops.logSumExp`. */
export function logSumExp(logits: Float32Array, labels: Uint32Array, out: Float32Array): void {
  const vocabulary = labels.length === 0 ? 0 : logits.length / labels.length;
  for (const [row, label] of labels.entries()) {
    const logitsOfRow = logits.subarray(row * vocabulary, (row + 1) * vocabulary);
    let highest = -Infinity;
    for (let i = 0; i < vocabulary; i++) highest = Math.max(highest, logitsOfRow[i]);
    let total = 0;
    for (let i = 0; i < vocabulary; i++) total += Math.exp(logitsOfRow[i] - highest);
    out[2 * row] = Math.log(total) + highest;
    out[2 * row + 1] = label < vocabulary ? logitsOfRow[label] : 0;
  }
}

/** logits [T, V] become their gradient; see `Ops.crossEntropyGradient`. */
export function crossEntropyGradient(
  logits: Float32Array,
  labels: Uint32Array,
  logSumExps: Float32Array,
  scale: number,
): void {
  const vocabulary = labels.length === 0 ? 0 : logits.length / labels.length;
  for (const [row, label] of labels.entries()) {
    const logitsOfRow = logits.subarray(row * vocabulary, (row + 1) * vocabulary);
    if (label === IGNORED_LABEL) {
      logitsOfRow.fill(0);
      continue;
    }
    for (let i = 0; i < vocabulary; i++) {
      logitsOfRow[i] = (Math.exp(logitsOfRow[i] - logSumExps[row]) - (i === label ? 1 : 0)) * scale;
    }
  }
}
