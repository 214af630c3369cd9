/**
 * One step of AdamW.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import type { AdamWOptions } from "../../ops.ts";
import type { Dispatcher } from "../dispatch.ts";
import { type ElementwiseKernel, runElementwise } from "./elementwise.ts";

/** In the order of operations of torch.optim.AdamW; the host computes factors in f64, as 1 − β in f32 loses digits. */
function kernel(clipped: boolean): ElementwiseKernel {
  return {
    kernel: clipped ? "adamw clipped" : "adamw",
    tensors: [["param", "update"], ["grad", "read"], ["m", "update"], ["v", "update"]],
    whole: clipped ? [["clip", "read"]] : [],
    fields: ["decay", "first_share", "second_decay", "second_share", "step_size", "root_correction", "epsilon"]
      .map((name) => `${name}: f32`),
    body: `
  let g = grad${clipped ? " * clip[params.at_clip + 1u]" : ""};
  m += (g - m) * params.first_share;
  v = v * params.second_decay + g * g * params.second_share;
  let root = sqrt(v) / params.root_correction + params.epsilon;
  param = param * params.decay - params.step_size * (m / root);`,
  };
}

const PLAIN = kernel(false);
const CLIPPED = kernel(true);

/** Launches `Ops.adamw`. */
export function adamw(
  dispatcher: Dispatcher,
  tensors: { param: Tensor; grad: Tensor; m: Tensor; v: Tensor; clip?: Tensor },
  options: AdamWOptions,
): void {
  const { param, grad, m, v, clip } = tensors;
  const { learningRate, beta1, beta2, epsilon, weightDecay, step } = options;
  const factors = [
    1 - learningRate * weightDecay,
    1 - beta1,
    beta2,
    1 - beta2,
    learningRate / (1 - beta1 ** step),
    Math.sqrt(1 - beta2 ** step),
    epsilon,
  ].map((f32) => ({ f32 }));
  runElementwise(dispatcher, clip ? CLIPPED : PLAIN, {
    tensors: [param, grad, m, v],
    whole: clip ? [clip] : [],
    params: () => factors,
  });
}
