/**
 * How an op's tensors are checked: liveness, element type, shape, and no overlap of what is written with anything else.
 *
 * @module
 */

import { type DType, elementBytes, sameShape, type Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** One tensor of an op and what it has to be. */
export interface Operand {
  /** Name in the signature of the op. */
  readonly name: string;
  readonly tensor: Tensor;
  /** Wanted dims, or the wanted number of elements where the dims do not matter. */
  readonly wanted: Shape | number;
  /** Whether the op writes it; a written tensor must not overlap with any other. */
  readonly written: boolean;
  /** Wanted element type, or those that there may be. */
  readonly dtype: DType | readonly DType[];
}

/** Element types that most ops on numbers take. */
export const FLOATS: readonly DType[] = ["f32", "f16"];

/** Element types of all numbers, for ops that only move or round them. */
export const NUMBERS: readonly DType[] = ["f32", "f16", "bf16"];

/** A tensor that the op reads; f32 unless told otherwise. */
export function reads(
  name: string,
  tensor: Tensor,
  wanted: Shape | number,
  dtype: DType | readonly DType[] = "f32",
): Operand {
  return { name, tensor, wanted, written: false, dtype };
}

/** A tensor that the op writes; f32 unless told otherwise. */
export function writes(
  name: string,
  tensor: Tensor,
  wanted: Shape | number,
  dtype: DType | readonly DType[] = "f32",
): Operand {
  return { name, tensor, wanted, written: true, dtype };
}

/**
 * Checks the tensors of an op.
 *
 * @param op name of the op, for the message
 * @param operands its tensors, in the order of the signature
 * @throws {RangeError} when a shape, an element type or an overlap is wrong; the message names op and shapes
 * @throws {ReferenceError} when a tensor has been freed
 */
export function checkOperands(op: string, operands: readonly Operand[]): void {
  for (const { tensor } of operands) tensor.assertLive();
  for (const { name, tensor, wanted, dtype } of operands) {
    if (typeof dtype === "string" ? dtype !== tensor.dtype : !dtype.includes(tensor.dtype)) {
      refuse(op, operands, `${name} must be ${[dtype].flat().join(" or ")}, not ${tensor.dtype}`);
    }
    if (typeof wanted === "number") {
      if (tensor.size !== wanted) refuse(op, operands, `${name} must have ${wanted} elements, not ${tensor.size}`);
    } else if (!sameShape(tensor.shape, wanted)) {
      refuse(op, operands, `${name} must be ${showShape(wanted)}`);
    }
  }
  checkOverlaps(op, operands);
}

/**
 * Dims of a tensor of two dims.
 *
 * @throws {RangeError} when it has another number of dims
 */
export function matrixDims(op: string, name: string, tensor: Tensor): readonly [rows: number, columns: number] {
  if (tensor.shape.length !== 2) {
    throw new RangeError(`Cannot run ${op} on ${name} ${showShape(tensor.shape)}: ${name} must have two dims`);
  }
  return [tensor.shape[0], tensor.shape[1]];
}

/** Throws the `RangeError` of an op whose tensors are named with their shapes. */
export function refuse(op: string, operands: readonly Operand[], reason: string): never {
  const shapes = operands.map(({ name, tensor }) => `${name} ${showShape(tensor.shape)}`).join(", ");
  throw new RangeError(`Cannot run ${op} on ${shapes}: ${reason}`);
}

/** A shape in words, such as `[3, 4]`. */
export function showShape(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** Whether two tensors have memory in common. */
export function overlaps(a: Tensor, b: Tensor): boolean {
  if (a.storage !== b.storage) return false;
  const aStart = a.offset * elementBytes(a.dtype);
  const bStart = b.offset * elementBytes(b.dtype);
  return aStart < bStart + b.bytes && bStart < aStart + a.bytes;
}

/** Whether two tensors are the same elements. */
export function sameElements(a: Tensor, b: Tensor): boolean {
  return a.storage === b.storage && a.dtype === b.dtype && a.offset === b.offset && a.size === b.size;
}

function checkOverlaps(op: string, operands: readonly Operand[]): void {
  for (const written of operands) {
    if (!written.written) continue;
    for (const other of operands) {
      if (other === written || !overlaps(written.tensor, other.tensor)) continue;
      refuse(op, operands, `${written.name} must not overlap ${other.name}`);
    }
  }
}
