/**
 * SwiGLU: silu(gate) · up, and its backward in place.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import type { Dispatcher } from "../dispatch.ts";
import { type ElementwiseKernel, runElementwise } from "./elementwise.ts";

/** The exponent is bounded so that neither it nor its inverse leaves the range of normal f32 numbers. */
const SIGMOID = "fn sigmoid(x: V) -> V { return V(1.0) / (V(1.0) + exp(min(-x, V(87.0)))); }\n";

const FORWARD: ElementwiseKernel = {
  kernel: "gated_activation",
  tensors: [["gate", "read"], ["up", "read"], ["out", "write"]],
  functions: SIGMOID,
  body: "out = gate * sigmoid(gate) * up;",
};

const INTO_GATE: ElementwiseKernel = {
  kernel: "gated_activation into gate",
  tensors: [["gate", "update"], ["up", "read"]],
  functions: SIGMOID,
  body: "gate = gate * sigmoid(gate) * up;",
};

const INTO_UP: ElementwiseKernel = {
  kernel: "gated_activation into up",
  tensors: [["gate", "read"], ["up", "update"]],
  functions: SIGMOID,
  body: "up = gate * sigmoid(gate) * up;",
};

/** Launches `Ops.gatedActivation`. */
export function gatedActivation(dispatcher: Dispatcher, gate: Tensor, up: Tensor, out: Tensor): void {
  const isOut = ({ storage, offset }: Tensor) => storage === out.storage && offset === out.offset;
  if (isOut(gate)) runElementwise(dispatcher, INTO_GATE, { tensors: [gate, up] });
  else if (isOut(up)) runElementwise(dispatcher, INTO_UP, { tensors: [gate, up] });
  else runElementwise(dispatcher, FORWARD, { tensors: [gate, up, out] });
}

const BACKWARD: ElementwiseKernel = {
  kernel: "gated_activation_backward",
  tensors: [["gate", "update"], ["up", "update"], ["d_out", "update"]],
  functions: SIGMOID,
  body: `
  let s = sigmoid(gate);
  let silu = gate * s;
  gate = d_out * up * (s + silu * (V(1.0) - s));
  let activation = silu * up;
  up = d_out * silu;
  d_out = activation;`,
};

/** Launches `Ops.gatedActivationBackward`. */
export function gatedActivationBackward(dispatcher: Dispatcher, gate: Tensor, up: Tensor, dOut: Tensor): void {
  runElementwise(dispatcher, BACKWARD, { tensors: [gate, up, dOut] });
}
