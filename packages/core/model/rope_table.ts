/**
 * Rotary frequencies and the table of angles that the kernels read.
 *
 * @module
 */

import type { ModelConfig } from "../config/model_config.ts";

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
