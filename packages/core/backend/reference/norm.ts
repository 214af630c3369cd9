/**
 * Root-mean-square normalisation (Zhang & Sennrich 2019). Dims: T rows, D width.
 *
 * @module
 */

/** out [T, D] = x · rstd · weight [D]; rstd [T] = 1/√(mean(x²) + epsilon). */
export function rmsNorm(
  x: Float32Array,
  weight: Float32Array,
  out: Float32Array,
  rstd: Float32Array,
  epsilon: number,
): void {
  const width = weight.length;
  for (let row = 0; row < rstd.length; row++) {
    const at = row * width;
    let squares = 0;
    for (let d = 0; d < width; d++) squares += x[at + d] * x[at + d];
    const factor = 1 / Math.sqrt(squares / width + epsilon);
    rstd[row] = factor;
    for (let d = 0; d < width; d++) out[at + d] = x[at + d] * factor * weight[d];
  }
}

/**
 * dx [T, D] += rstd · (g − x̂ · mean(g · x̂)) with g = dOut · weight and x̂ = x · rstd; dWeight [D] += Σ rows of
 * dOut · x̂.
 */
export function rmsNormBackward(
  x: Float32Array,
  weight: Float32Array,
  rstd: Float32Array,
  dOut: Float32Array,
  dx: Float32Array,
  dWeight?: Float32Array,
): void {
  const width = weight.length;
  const weightSums = new Float64Array(width);
  for (let row = 0; row < rstd.length; row++) {
    const at = row * width;
    const factor = rstd[row];
    let dot = 0;
    for (let d = 0; d < width; d++) {
      const dOutTimesNormed = dOut[at + d] * x[at + d] * factor;
      weightSums[d] += dOutTimesNormed;
      dot += dOutTimesNormed * weight[d];
    }
    const mean = dot / width;
    for (let d = 0; d < width; d++) {
      dx[at + d] += factor * (dOut[at + d] * weight[d] - x[at + d] * factor * mean);
    }
  }
  if (dWeight) { for (let d = 0; d < width; d++) dWeight[d] += weightSums[d]; }
}
