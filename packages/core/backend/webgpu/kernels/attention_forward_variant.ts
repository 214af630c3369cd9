/**
 * The variants of the forward of attention on matrix units and which one is taken when: data to be edited after
 * measuring.
 *
 * @module
 */

import type { Dispatcher } from "../dispatch.ts";
import { MATRIX_SIZE, type MatrixUnit, TEAM } from "./matrix_unit.ts";

/** How a workgroup of teams works out a tile of queries; see `attention_matrix_forward.ts`. */
export interface ForwardVariant {
  readonly kind: "forward_matrices";
  /** How matrices are multiplied. */
  readonly unit: MatrixUnit;
  /** Queries that a workgroup owns. */
  readonly rows: number;
  /** Teams, which share them out; as multiples of 16. */
  readonly teams: number;
  /** Keys of a tile, a multiple of `step`. */
  readonly columns: number;
  /** Keys whose scores a team works out at a time, a multiple of 16. */
  readonly step: number;
}

/** What follows from a variant for one head dim. */
export interface ForwardShape extends ForwardVariant {
  /** Head dim E. */
  readonly headDim: number;
  /** Invocations of a workgroup. */
  readonly invocations: number;
  /** Queries of a team. */
  readonly teamRows: number;
  /** From a row of scores, and of weights, to the next: 8 more than it has, so that neighbours meet different banks. */
  readonly scoreStride: number;
  /** The same of a tile of keys or values. */
  readonly tileStride: number;
  /** Where the keys lie behind the weights, in f16. */
  readonly keysAt: number;
  /** Where the values lie behind the keys, in f16. */
  readonly valuesAt: number;
  /** Weights, keys and values, in f16. */
  readonly halfElements: number;
  /** Scores, in f32. */
  readonly scoreElements: number;
  /** Columns of the queries that go through workgroup memory at a time. */
  readonly queryColumns: number;
  /** Loads of an invocation for a tile of keys or values. */
  readonly loads: number;
  /** Bytes of workgroup memory. */
  readonly memoryBytes: number;
}

/** Works out the sizes of a variant. */
export function forwardShape(variant: ForwardVariant, headDim: number): ForwardShape {
  const { unit, rows, teams, columns, step } = variant;
  const invocations = TEAM * teams;
  const scoreStride = step + 8;
  const tileStride = headDim + 8;
  const keysAt = rows * scoreStride;
  const valuesAt = keysAt + columns * tileStride;
  // The last row of either array needs no room behind it.
  const scoreElements = rows * scoreStride - 8;
  const halfElements = valuesAt + columns * tileStride - 8;
  let queryColumns = headDim;
  while (rows * (queryColumns + 8) - 8 > halfElements) queryColumns /= 2;
  const emulated = unit === "emulated";
  return {
    ...variant,
    headDim,
    invocations,
    teamRows: rows / teams,
    scoreStride,
    tileStride,
    keysAt,
    valuesAt,
    halfElements,
    scoreElements,
    queryColumns,
    loads: columns * headDim / 8 / invocations,
    memoryBytes: scoreElements * 4 + halfElements * (emulated ? 4 : 2) + rows * 8 + 20 +
      (emulated ? invocations * 4 : 0),
  };
}

/** Shorthand for a {@linkcode ForwardVariant}. */
export function forwardMatrices(
  rows: number,
  teams: number,
  columns: number,
  step: number,
  unit: MatrixUnit = "subgroup",
): ForwardVariant {
  return { kind: "forward_matrices", unit, rows, teams, columns, step };
}

/** Variants; the first that suits the head dim and fits the device is taken. */
const FORWARD_VARIANTS: readonly { readonly maxHeadDim: number; readonly variant: ForwardVariant }[] = [
  { maxHeadDim: 64, variant: forwardMatrices(128, 4, 16, 16) },
  { maxHeadDim: 128, variant: forwardMatrices(128, 8, 32, 32) },
];

/** The variant that should be fastest on a device; none where it has no matrix units or they do not suit the head dim. */
export function chooseForwardVariant(
  headDim: number,
  { features, limits }: Pick<Dispatcher, "features" | "limits">,
): ForwardVariant | undefined {
  if (!features.subgroupMatrix || headDim % MATRIX_SIZE !== 0) return undefined;
  return FORWARD_VARIANTS.find(({ maxHeadDim, variant }) => {
    if (headDim > maxHeadDim) return false;
    const { invocations, memoryBytes, loads, queryColumns } = forwardShape(variant, headDim);
    const isEven = [loads, queryColumns / MATRIX_SIZE, variant.rows * queryColumns / 8 / invocations]
      .every(Number.isInteger);
    return isEven && invocations <= limits.maxInvocations && memoryBytes <= limits.maxWorkgroupMemoryBytes;
  })?.variant;
}
