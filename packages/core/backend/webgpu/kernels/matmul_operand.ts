/**
 * WGSL expressions that load vec4s of `a` and `b`, bound as vec4s or as single numbers.
 *
 * An operand runs *along* k when k is its last dim (`a` of NN and NT, `b` of NT) and *across* k otherwise. No load leaves
 * the operand: rows and columns past its end read its last ones instead, whose products are not stored.
 *
 * @module
 */

import { each, type MatmulForm } from "./matmul_form.ts";

/** One of the two operands. */
export interface MatmulOperand {
  readonly name: "a" | "b";
  /** Whether k is its last dim. */
  readonly alongK: boolean;
  /** Its dim other than k. */
  readonly extent: "m" | "n";
  /** Whether it is bound as vec4s. */
  readonly vector: boolean;
}

/** The operand `a` of a form. */
export function operandA({ layout, vectorA }: MatmulForm): MatmulOperand {
  return { name: "a", alongK: layout !== "TN", extent: "m", vector: vectorA };
}

/** The operand `b` of a form. */
export function operandB({ layout, vectorB }: MatmulForm): MatmulOperand {
  return { name: "b", alongK: layout === "NT", extent: "n", vector: vectorB };
}

/**
 * Where the four rows (along k) or columns (across k) from `first` start in the operand; `first` is a multiple of 4.
 * Across k and bound as vec4s, the four lie in one vec4, and there is one start.
 */
export function fourStarts(operand: MatmulOperand, first: string): string[] {
  const { alongK, vector, extent, name } = operand;
  if (alongK) return [0, 1, 2, 3].map((i) => rowStart(operand, `${first} + ${i}u`));
  if (vector) return [`params.${name}Start + min(${first}, params.${extent} - 4u) / 4u`];
  return [0, 1, 2, 3].map((i) => `params.${name}Start + min(${first} + ${i}u, params.${extent} - 1u)`);
}

/** Where a row of an operand along k starts. */
export function rowStart({ name, extent }: MatmulOperand, row: string): string {
  return `params.${name}Start + min(${row}, params.${extent} - 1u) * params.${name}Stride`;
}

/** Four depths of the row at `start` as a vec4; `depth(i)` are expressions. */
export function loadAlong({ name, vector }: MatmulOperand, start: string, depth: (i: number) => string): string {
  if (vector) return `load_${name}(${start} + (${depth(0)}) / 4u)`;
  return `vec4f(${each(4, (i) => `load_${name}(${start} + ${depth(i)})`, ", ")})`;
}

/** One depth of four columns as a vec4. */
export function loadAcross({ name, vector }: MatmulOperand, starts: readonly string[], depth: string): string {
  const one = (start: string) => `load_${name}(${start} + (${depth}) * params.${name}Stride)`;
  return vector ? one(starts[0]) : `vec4f(${starts.map(one).join(", ")})`;
}

/** A vec4 whose numbers are zeros where their depth is k or more; `depth` is a u32 for all four, or a vec4u. */
export function zeroPastK(value: string, depth: string): string {
  return `select(vec4f(), ${value}, ${depth} < ${depth.startsWith("vec4u") ? "vec4u(params.k)" : "params.k"})`;
}
