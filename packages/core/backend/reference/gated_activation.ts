/**
 * SwiGLU (Shazeer 2020).
 *
 * @module
 */

/** out = silu(gate) · up, element by element. */
export function gatedActivation(gate: Float32Array, up: Float32Array, out: Float32Array): void {
  for (let i = 0; i < gate.length; i++) out[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

/** gate and up become their gradients, dOut the activation; see `Ops.gatedActivationBackward`. */
export function gatedActivationBackward(gate: Float32Array, up: Float32Array, dOut: Float32Array): void {
  for (let i = 0; i < gate.length; i++) {
    const weight = sigmoid(gate[i]);
    const silu = gate[i] * weight;
    const dGate = dOut[i] * up[i] * (weight + silu * (1 - weight));
    const dUp = dOut[i] * silu;
    dOut[i] = silu * up[i];
    gate[i] = dGate;
    up[i] = dUp;
  }
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}
