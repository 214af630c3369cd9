/**
 * Seeded random numbers for tests: the same seed gives the same numbers on every machine.
 *
 * @module
 */

import { mixBits } from "../../packages/core/backend/init_normal.ts";

/** A stream of random numbers that its seed determines. */
export class Random {
  #counter: number;

  /** @param seed any integer; different seeds give unrelated streams */
  constructor(seed: number) {
    this.#counter = mixBits(seed ^ 0x6a09e667);
  }

  /** The next 32 random bits as an unsigned integer. */
  bits(): number {
    this.#counter = (this.#counter + 0x9e3779b9) >>> 0;
    return mixBits(mixBits(this.#counter) ^ 0x3c6ef372);
  }

  /** A number from 0 (included) to 1 (excluded). */
  uniform(): number {
    return this.bits() / 2 ** 32;
  }

  /** An integer from 0 (included) to `bound` (excluded). */
  integer(bound: number): number {
    return Math.floor(this.uniform() * bound);
  }

  /** A normally distributed number (Box and Muller 1958). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** `count` normally distributed numbers. */
  normals(count: number, std = 1): Float32Array {
    return Float32Array.from({ length: count }, () => std * this.normal());
  }

  /** `count` integers from 0 (included) to `bound` (excluded). */
  integers(count: number, bound: number): Uint32Array {
    return Uint32Array.from({ length: count }, () => this.integer(bound));
  }
}
