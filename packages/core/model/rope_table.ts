/**
 * Rotary frequencies and the table of angles that the kernels read.
 *
 * @module
 */

import { type Backend, tensorFrom } from "../backend/backend.ts";
import type { ModelConfig } from "../config/model_config.ts";
import { type RowSlice, rowsOfSlice } from "../layer/region.ts";
import type { Scope } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * The E/2 rotary frequencies in radians per position, rounded to f32 as transformers has them, with Llama 3.1's
 * scaling: long wavelengths are stretched by `factor`, short ones are kept, and those between are blended.
 */
export function rotaryFrequencies({ headDim, ropeTheta, ropeScaling }: ModelConfig): Float32Array {
  const frequencies = Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / ropeTheta ** (2 * i / headDim));
  if (!ropeScaling) return frequencies;
  const { factor, lowFrequencyFactor, highFrequencyFactor, originalPositions } = ropeScaling;
  return frequencies.map((frequency) => {
    const turns = originalPositions * frequency / (2 * Math.PI);
    const kept = Math.min(1, Math.max(0, (turns - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor)));
    return (1 - kept) * frequency / factor + kept * frequency;
  });
}

/** Makes the table of a micro-batch; see {@linkcode createRotaryTables}. */
export type RotaryTables = (batch: number, documentStarts?: Uint32Array) => Float32Array;

/**
 * Tables of the same positions for every micro-batch: [S, E] as {@linkcode rotaryTable}, or with documents [B·S, E],
 * where positions restart at the start of each.
 *
 * @param positions global positions of the rows of a sequence
 * @param seqTokens tokens of a whole sequence
 */
export function createRotaryTables(model: ModelConfig, positions: Uint32Array, seqTokens: number): RotaryTables {
  const global = rotaryTable(model, positions);
  let ofAll: Float32Array | undefined; // angles cost more than rows to copy; a restarted position may be any

  return (batch, documentStarts) => {
    if (!documentStarts) return global;
    ofAll ??= rotaryTable(model, Uint32Array.from({ length: seqTokens }, (_, i) => i));
    const width = ofAll.length / seqTokens;
    const table = new Float32Array(batch * positions.length * width);
    for (let b = 0, row = 0; b < batch; b++) {
      for (const position of positions) {
        const restarted = position - documentStarts[b * seqTokens + position];
        table.set(ofAll.subarray(restarted * width, (restarted + 1) * width), width * row++);
      }
    }
    return table;
  };
}

/** Angles on the device. */
export interface RotaryAngles {
  /** Those of the rows of attention in a slice, as {@linkcode rotaryTable}; freed by the receiver. */
  of(slice: RowSlice): Tensor;
}

/** What {@linkcode createRotaryAngles} works with. */
export interface RotaryAnglesOptions {
  /** Head dim E. */
  readonly headDim: number;
  /** Slices of the rows of attention, each within one sequence unless it is the only one. */
  readonly slices: readonly RowSlice[];
}

/**
 * Puts a table of {@linkcode RotaryTables} on the device: whole, owned by the scope, where all rows are one slice, and
 * otherwise those of a slice when they are asked for, so that no rank holds the angles of all tokens.
 */
export function createRotaryAngles(
  backend: Backend,
  table: Float32Array,
  scope: Scope,
  { headDim, slices }: RotaryAnglesOptions,
): RotaryAngles {
  const rows = table.length / headDim;
  const upload = (start: number, count: number) =>
    tensorFrom(backend, table.subarray(start * headDim, (start + count) * headDim), [count, headDim], "activations");
  if (slices.length === 1) {
    const whole = scope.own(upload(0, rows));
    return { of: () => whole.share() };
  }
  return { of: (slice) => upload(slice.at % rows, rowsOfSlice(slice)) };
}

/**
 * Cosines (first half of each row) and sines (second half) of the angles of the given positions: [S, E]. They come from
 * the host, since WGSL's sine and cosine are inexact for large angles.
 */
export function rotaryTable(model: ModelConfig, positions: Uint32Array): Float32Array {
  const frequencies = rotaryFrequencies(model);
  const half = frequencies.length;
  const table = new Float32Array(positions.length * 2 * half);
  for (let s = 0; s < positions.length; s++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(positions[s] * frequencies[i]);
      table[s * 2 * half + i] = Math.cos(angle);
      table[s * 2 * half + half + i] = Math.sin(angle);
    }
  }
  return table;
}
