/**
 * The MLP of a decoder block with its norm and residual: y = x + down(silu(gate(n)) · up(n)), n = norm(x).
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { type Forward, type Layer, outputLike } from "../layer/layer.ts";
import { type Saved, savedTensors, Scope } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { BlockParameters } from "./parameters.ts";

type MlpParameters = Pick<BlockParameters, "mlpNorm" | "gate" | "up" | "down">;

/**
 * A position-wise layer over rows [T, D], fit for `miniSequence`. Saves x, the norm's rstd [T], and gate and up [T, F];
 * the normed input and the activation are computed again in backward, as both cost one pass over memory.
 */
export function createMlpLayer(backend: Backend, weights: MlpParameters, normEpsilon: number): Layer {
  const { ops } = backend;
  const { mlpNorm, gate: gateWeight, up: upWeight, down } = weights;
  const ffn = gateWeight.value.shape[0];

  /** gate and up [T, F] and rstd [T], which the scope owns. */
  function project(x: Tensor, scope: Scope): { rstd: Tensor; gate: Tensor; up: Tensor } {
    const rstd = scope.own(backend.empty([x.shape[0]], "activations"));
    using normed = backend.empty(x.shape, "activations");
    const gate = scope.own(backend.empty([x.shape[0], ffn], "activations"));
    const up = scope.own(backend.empty([x.shape[0], ffn], "activations"));
    ops.rmsNorm(x, mlpNorm.value, normed, rstd, normEpsilon);
    ops.matmul(normed, gateWeight.value, gate, { transposeB: true });
    ops.matmul(normed, upWeight.value, up, { transposeB: true });
    return { rstd, gate, up };
  }

  function combine(x: Tensor, activation: Tensor, out?: Tensor): Tensor {
    const y = outputLike(backend, x, out);
    ops.copy(x, y);
    ops.matmul(activation, down.value, y, { transposeB: true, accumulate: true });
    return y;
  }

  function save(x: Tensor, scope: Scope, parts: { rstd: Tensor; gate: Tensor; up: Tensor }): Saved {
    Object.values(parts).forEach((part) => scope.release(part));
    return savedTensors({ x: x.share(), ...parts });
  }

  return {
    backend,

    forward(x: Tensor, out?: Tensor): Promise<Forward> {
      using scope = new Scope();
      const parts = project(x, scope);
      using activation = backend.empty(parts.gate.shape, "activations");
      ops.gatedActivation(parts.gate, parts.up, activation);
      const y = combine(x, activation, out);
      return Promise.resolve({ y, saved: save(x, scope, parts) });
    },

    backward(dy: Tensor, saved: Saved): Promise<Tensor> {
      const [x, rstd, gate, up] = saved.tensors;
      {
        using dActivation = backend.empty(gate.shape, "activations");
        ops.matmul(dy, down.value, dActivation);
        ops.gatedActivationBackward(gate, up, dActivation);
        const activation = dActivation; // became the activation, as gate and up became their gradients
        if (down.gradient) ops.matmul(dy, activation, down.gradient, { transposeA: true, accumulate: true });
      }
      using normed = backend.empty(x.shape, "activations");
      ops.rmsNorm(x, mlpNorm.value, normed, rstd, normEpsilon);
      if (gateWeight.gradient) ops.matmul(gate, normed, gateWeight.gradient, { transposeA: true, accumulate: true });
      if (upWeight.gradient) ops.matmul(up, normed, upWeight.gradient, { transposeA: true, accumulate: true });
      const dNormed = normed; // its values are not needed any more
      ops.matmul(gate, gateWeight.value, dNormed);
      ops.matmul(up, upWeight.value, dNormed, { accumulate: true });
      ops.rmsNormBackward(x, mlpNorm.value, rstd, dNormed, dy, mlpNorm.gradient); // dy carries the residual: dx = dy + …
      saved.free();
      return Promise.resolve(dy);
    },

    apply(x: Tensor, out?: Tensor): Promise<Tensor> {
      using scope = new Scope();
      const { gate, up } = project(x, scope);
      ops.gatedActivation(gate, up, gate);
      return Promise.resolve(combine(x, gate, out));
    },

    rematerialize(x: Tensor): Promise<Saved> {
      using scope = new Scope();
      return Promise.resolve(save(x, scope, project(x, scope)));
    },
  };
}
