/**
 * Checks gradients against finite differences.
 *
 * @module
 */

import { assert, AssertionError } from "@std/assert";
import { assertClose, assertFinite, assertNotAllZero } from "./compare.ts";
import { Random } from "./random.ts";

/** Arrays by name. */
export type NamedArrays = Record<string, Float32Array>;

/** A function of arrays and the gradients that are claimed for it. */
export interface GradientCheck {
  /** What is checked, for the message. */
  what: string;
  /** Where the gradients were taken. */
  inputs: NamedArrays;
  /** The claimed gradients; inputs that are not named here are held fixed. */
  gradients: NamedArrays;
  /** The scalar function, best summed up in f64. Called concurrently; must leave its argument as it is. */
  loss: (inputs: NamedArrays) => Promise<number>;
  /**
   * Step of the differences. They are of fourth order, so that a wide step serves: by default 1/64, where rounding to
   * f32 (about 1e-7 over the step) and the term left out (about step⁴) are both around 1e-5.
   */
  step?: number;
  /** Allowed difference as a share of the largest number of that gradient. Default 5e-4, for both errors above. */
  tolerance?: number;
  /**
   * Number of random directions to differentiate along, for inputs of many elements; a single wrong element may then
   * go unnoticed. Left out: every element by itself.
   */
  directions?: number;
}

/**
 * Asserts that gradients are right.
 *
 * @throws {AssertionError} when a gradient is not finite, zero throughout, of another length than its input, or off
 */
export async function checkGradients(check: GradientCheck): Promise<void> {
  const { what, inputs, gradients, directions } = check;
  assert(Object.keys(gradients).length > 0, `${what}: there is no gradient to check`);
  for (const [name, gradient] of Object.entries(gradients)) {
    const label = `${what}: gradient of ${name}`;
    if (gradient.length !== inputs[name].length) {
      throw new AssertionError(`${label}: has ${gradient.length} elements, the input ${inputs[name].length}`);
    }
    assertFinite(gradient, label);
    assertNotAllZero(gradient, label);
    await (directions === undefined ? checkElements(check, name, label) : checkDirections(check, name, label));
  }
}

async function checkElements(check: GradientCheck, name: string, label: string): Promise<void> {
  const gradient = check.gradients[name];
  const slopes = await Promise.all(Array.from(gradient, (_, i) => {
    const direction = new Float32Array(gradient.length);
    direction[i] = 1;
    return slope(check, name, direction);
  }));
  const absolute = (check.tolerance ?? 5e-4) * Math.max(...slopes.map(Math.abs));
  assertClose(gradient, slopes, { absolute, what: label, rejectAllZero: true });
}

async function checkDirections(check: GradientCheck, name: string, label: string): Promise<void> {
  const gradient = check.gradients[name];
  const random = new Random(gradient.length);
  const directions = Array.from({ length: check.directions! }, () => random.normals(gradient.length));
  const slopes = await Promise.all(directions.map((direction) => slope(check, name, direction)));
  const claimed = directions.map((direction) => dot(gradient, direction));
  const absolute = (check.tolerance ?? 5e-4) * Math.sqrt(dot(gradient, gradient));
  assertClose(claimed, slopes, { absolute, what: `${label} along ${directions.length} directions` });
}

/** Derivative along a direction by central differences of fourth order. */
async function slope(check: GradientCheck, name: string, direction: Float32Array): Promise<number> {
  const step = check.step ?? 1 / 64;
  const [far, near, nearBehind, farBehind] = await Promise.all([2, 1, -1, -2].map((steps) => {
    const moved = check.inputs[name].map((value, i) => value + steps * step * direction[i]);
    return check.loss({ ...check.inputs, [name]: moved });
  }));
  return (8 * (near - nearBehind) - (far - farBehind)) / (12 * step);
}

/** Σ a · b in f64; also the usual way to make a loss of an output and fixed weights. */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
