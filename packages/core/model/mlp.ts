/**
 * The MLP of a decoder block with its norm and residual: y = x + down(silu(gate(n)) · up(n)), n = norm(x).
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { type Forward, type Layer, outputLike } from "../layer/layer.ts";
import { type Region, WHOLE_REGION } from "../layer/region.ts";
import { type Saved, savedTensors, Scope } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { BlockParameters } from "./parameters.ts";

type MlpParameters = Pick<BlockParameters, "mlpNorm" | "gate" | "up" | "down">;

/** Rows of a slice on their way from the projections to the sum. */
interface Projected {
  readonly rstd: Tensor;
  readonly gate: Tensor;
  readonly up: Tensor;
}

/**
 * A position-wise layer over rows [T, D], fit for `miniSequence`. Saves x, the norm's rstd [T], and gate and up [T, F];
 * the normed input and the activation are computed again in backward, as both cost one pass over memory. Where ranks
 * share the weights, F is this rank's part of the width, and the rows of gate and up are those of all ranks.
 *
 * @param region wraps the projections; by default this rank holds all of the weights
 */
export function createMlpLayer(
  backend: Backend,
  weights: MlpParameters,
  normEpsilon: number,
  region: Region = WHOLE_REGION,
): Layer {
  const { ops } = backend;
  const { mlpNorm, gate: gateWeight, up: upWeight, down } = weights;

  /** gate, up and rstd, which the scope owns, and the rows of each rank. */
  async function project(x: Tensor, scope: Scope): Promise<{ parts: Projected; counts: readonly number[] }> {
    const ffn = gateWeight.value.shape[0]; // looked up here, since weights need not be at hand before
    const rstd = scope.own(backend.empty([x.shape[0]], "activations"));
    using normed = backend.empty(x.shape, "activations", x.dtype);
    ops.rmsNorm(x, mlpNorm.value, normed, rstd, normEpsilon);
    const { all, counts } = await region.gather(normed);
    using input = all;
    const gate = scope.own(backend.empty([input.shape[0], ffn], "activations", x.dtype));
    const up = scope.own(backend.empty([input.shape[0], ffn], "activations", x.dtype));
    ops.matmul(input, gateWeight.value, gate, { transposeB: true });
    ops.matmul(input, upWeight.value, up, { transposeB: true });
    return { parts: { rstd, gate, up }, counts };
  }

  async function combine(x: Tensor, activation: Tensor, counts: readonly number[], out?: Tensor): Promise<Tensor> {
    const y = outputLike(backend, x, out);
    ops.copy(x, y);
    const produce = (target: Tensor, accumulate: boolean) =>
      ops.matmul(activation, down.value, target, { transposeB: true, accumulate });
    await region.scatterSum(y, counts, produce, { accumulate: true });
    return y;
  }

  function save(x: Tensor, scope: Scope, parts: Projected): Saved {
    Object.values(parts).forEach((part) => scope.release(part));
    return savedTensors({ x: x.share(), ...parts });
  }

  return {
    backend,

    async forward(x: Tensor, out?: Tensor): Promise<Forward> {
      using scope = new Scope();
      const { parts, counts } = await project(x, scope);
      using activation = backend.empty(parts.gate.shape, "activations", x.dtype);
      ops.gatedActivation(parts.gate, parts.up, activation);
      const y = await combine(x, activation, counts, out);
      return { y, saved: save(x, scope, parts) };
    },

    async backward(dy: Tensor, saved: Saved): Promise<Tensor> {
      const [x, rstd, gate, up] = saved.tensors;
      {
        const { all } = await region.gather(dy);
        using dOut = all;
        using dActivation = backend.empty(gate.shape, "activations", gate.dtype);
        ops.matmul(dOut, down.value, dActivation);
        ops.gatedActivationBackward(gate, up, dActivation);
        const activation = dActivation; // became the activation, as gate and up became their gradients
        if (down.gradient) ops.matmul(dOut, activation, down.gradient, { transposeA: true, accumulate: true });
      }
      using normed = backend.empty(x.shape, "activations", x.dtype);
      ops.rmsNorm(x, mlpNorm.value, normed, rstd, normEpsilon);
      const { all, counts } = await region.gather(normed);
      if (gateWeight.gradient) ops.matmul(gate, all, gateWeight.gradient, { transposeA: true, accumulate: true });
      if (upWeight.gradient) ops.matmul(up, all, upWeight.gradient, { transposeA: true, accumulate: true });
      all.free();
      const dNormed = normed; // its values are not needed any more
      await region.scatterSum(dNormed, counts, (target, accumulate) => {
        ops.matmul(gate, gateWeight.value, target, { accumulate });
        ops.matmul(up, upWeight.value, target, { accumulate: true });
      });
      ops.rmsNormBackward(x, mlpNorm.value, rstd, dNormed, dy, mlpNorm.gradient); // dy carries the residual: dx = dy + …
      saved.free();
      return dy;
    },

    async apply(x: Tensor, out?: Tensor): Promise<Tensor> {
      using scope = new Scope();
      const { parts: { gate, up }, counts } = await project(x, scope);
      ops.gatedActivation(gate, up, gate);
      return await combine(x, gate, counts, out);
    },

    async rematerialize(x: Tensor): Promise<Saved> {
      using scope = new Scope();
      const { parts } = await project(x, scope);
      return save(x, scope, parts);
    },
  };
}
