/**
 * What tensors are written with and read as on the host.
 *
 * @module
 */

import { fromHalfBits, readHalves, toHalfBits } from "../../tensor/half.ts";
import { type DType, elementBytes } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { HostData } from "../backend.ts";

/**
 * The elements of a tensor as they lie on the device.
 *
 * @throws {RangeError} when there are more or fewer elements than the tensor has
 * @throws {TypeError} when the tensor has another element type
 */
export function deviceData({ dtype, shape, size }: Tensor, data: HostData): HostData {
  const written = data instanceof Uint32Array ? "u32" : data instanceof Float32Array ? "f32" : "bits";
  const isHalf = dtype === "f16" || dtype === "bf16";
  if (written === "u32" ? dtype !== "u32" : written === "f32" ? dtype === "u32" : !isHalf) {
    throw new TypeError(`Cannot write ${written} data to a tensor of shape [${shape}]: it is ${dtype}`);
  }
  if (size !== data.length) {
    throw new RangeError(`Cannot write ${data.length} elements to a tensor of shape [${shape}]: it has ${size}`);
  }
  return isHalf && data instanceof Float32Array ? toHalfBits(data, dtype) : data;
}

/**
 * Checks that a tensor holds numbers, and as many as an array takes.
 *
 * @throws {RangeError} when the array is not as long as the tensor
 * @throws {TypeError} when the tensor holds ids
 */
export function checkRead({ dtype, shape, size }: Tensor, into?: Float32Array): void {
  if (dtype === "u32") {
    throw new TypeError(`Cannot read a tensor of shape [${shape}] as numbers: its elements are ${dtype}`);
  }
  if (into && size !== into.length) {
    throw new RangeError(`Cannot read a tensor of shape [${shape}] into ${into.length} elements: it has ${size}`);
  }
}

/** Numbers on their way from the device. */
export interface HostNumbers {
  /** Where the bytes of each tensor go; empty where they get memory of their own. */
  readonly bytes: readonly Uint8Array[];
  /** Takes the bytes of one tensor once they are there. */
  readonly arrived: (index: number, bytes: Uint8Array) => void;
  /** The numbers, once all have arrived. */
  readonly results: () => Float32Array[];
}

/** Receives the numbers of tensors in the arrays given, or in fresh ones; those of 16 bits become f32. */
export function hostNumbers(tensors: readonly Tensor[], into?: readonly Float32Array[]): HostNumbers {
  const results: Float32Array[] = into ? [...into] : tensors.map(() => new Float32Array(0));
  return {
    bytes: tensors.map(({ dtype }, i) => into && elementBytes(dtype) === 4 ? bytesOf(into[i]) : new Uint8Array(0)),
    arrived: (i, { buffer, byteOffset, byteLength }) => {
      const { dtype } = tensors[i];
      if (isHalf(dtype)) {
        const bits = new Uint16Array(buffer, byteOffset, byteLength / 2);
        if (into) readHalves(bits, into[i], dtype);
        else results[i] = fromHalfBits(bits, dtype);
      } else if (!into) results[i] = new Float32Array(buffer, byteOffset, byteLength / 4);
    },
    results: () => results,
  };
}

function isHalf(dtype: DType): dtype is "f16" | "bf16" {
  return elementBytes(dtype) === 2;
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
