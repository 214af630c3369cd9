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
  tensors: [["gate", "read"], ["up", "read"], ["out", "read_write"]],
  functions: SIGMOID,
  body: "let g = gate[at_gate]; out[at_out] = g * sigmoid(g) * up[at_up];",
};

const INTO_GATE: ElementwiseKernel = {
  kernel: "gated_activation into gate",
  tensors: [["gate", "read_write"], ["up", "read"]],
  functions: SIGMOID,
  body: "let g = gate[at_gate]; gate[at_gate] = g * sigmoid(g) * up[at_up];",
};

const INTO_UP: ElementwiseKernel = {
  kernel: "gated_activation into up",
  tensors: [["gate", "read"], ["up", "read_write"]],
  functions: SIGMOID,
  body: "let g = gate[at_gate]; up[at_up] = g * sigmoid(g) * up[at_up];",
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
  tensors: [["gate", "read_write"], ["up", "read_write"], ["d_out", "read_write"]],
  functions: SIGMOID,
  body: `
  let g = gate[at_gate];
  let u = up[at_up];
  let d = d_out[at_d_out];
  let s = sigmoid(g);
  let silu = g * s;
  gate[at_gate] = d * u * (s + silu * (V(1.0) - s));
  up[at_up] = d * silu;
  d_out[at_d_out] = silu * u;`,
};

/** Launches `Ops.gatedActivationBackward`. */
export function gatedActivationBackward(dispatcher: Dispatcher, gate: Tensor, up: Tensor, dOut: Tensor): void {
  runElementwise(dispatcher, BACKWARD, { tensors: [gate, up, dOut] });
}
