/**
 * What the ops of the optimizer want of their tensors and options; see `check_shapes.ts`.
 *
 * @module
 */

import type { Tensor } from "../tensor/tensor.ts";
import { checkOperands, FLOATS, type Operand, reads, refuse, writes } from "./check_operands.ts";
import { type AdamWOptions, type ClipOptions, PARTIAL_SUMS } from "./ops.ts";

/** Checks `Ops.sum`. */
export function checkSum(x: Tensor, out: Tensor): void {
  checkOperands("sum", [reads("x", x, x.shape), writes("out", out, [1])]);
}

/** Checks `Ops.sumSquares`. */
export function checkSumSquares(x: Tensor, out: Tensor): void {
  checkOperands("sumSquares", [reads("x", x, x.shape), writes("out", out, [PARTIAL_SUMS])]);
}

/** Checks `Ops.clipFactor`. */
export function checkClipFactor(partials: Tensor, result: Tensor, maxNorm: number, options: ClipOptions = {}): void {
  const operands = [reads("partials", partials, [PARTIAL_SUMS]), writes("result", result, [2])];
  checkOperands("clipFactor", operands);
  if (!(maxNorm > 0)) refuse("clipFactor", operands, `maxNorm must be positive, not ${maxNorm}`);
  checkGradientScale("clipFactor", operands, options);
}

function checkGradientScale(op: string, operands: Operand[], { gradientScale = 1 }: ClipOptions): void {
  if (gradientScale > 0 && Number.isFinite(gradientScale)) return;
  refuse(op, operands, `gradientScale must be positive and finite, not ${gradientScale}`);
}

/** Checks `Ops.adamw`. */
export function checkAdamW(
  param: Tensor,
  grad: Tensor,
  m: Tensor,
  v: Tensor,
  options: AdamWOptions,
  clip?: Tensor,
): void {
  const operands = [
    writes("param", param, param.shape, FLOATS),
    reads("grad", grad, param.size),
    writes("m", m, param.size, ["f32", "bf16"]),
    writes("v", v, param.size, m.dtype),
    ...clip ? [reads("clip", clip, [2])] : [],
  ];
  checkOperands("adamw", operands);
  checkGradientScale("adamw", operands, options);
  const { step, beta1, beta2, rounding } = options;
  if (!rounding && [param, m].some(({ dtype }) => dtype !== "f32")) {
    refuse("adamw", operands, "rounding must be given where param or moments have 16 bits");
  }
  for (const name of ["seed", "stream"] as const) {
    if (!rounding || rounding[name] === rounding[name] >>> 0) continue;
    refuse("adamw", operands, `${name} must be a u32, not ${rounding[name]}`);
  }
  if (!(Number.isSafeInteger(step) && step >= 1)) refuse("adamw", operands, `step must count from 1, not ${step}`);
  for (const [name, beta] of [["beta1", beta1], ["beta2", beta2]] as const) {
    if (!(beta >= 0 && beta < 1)) refuse("adamw", operands, `${name} must be at least 0 and below 1, not ${beta}`);
  }
}
