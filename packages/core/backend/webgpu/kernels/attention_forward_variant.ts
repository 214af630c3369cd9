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
  /** Keys of a tile. */
  readonly columns: number;
  /** Teams one above the other, which share out the queries. */
  readonly rowTeams: number;
  /** Teams side by side, which share out the keys of scores and the columns of the output. */
  readonly columnTeams: number;
}

/** What follows from a variant for one head dim. */
export interface ForwardShape extends ForwardVariant {
  /** Head dim E. */
  readonly headDim: number;
  /** Invocations of a workgroup. */
  readonly invocations: number;
  /** Matrices of queries that a team multiplies. */
  readonly rowMatrices: number;
  /** Matrices of keys that it multiplies them by. */
  readonly scoreMatrices: number;
  /** Matrices of columns of the output that it keeps. */
  readonly outMatrices: number;
  /** Queries whose weights the lanes of a team work out. */
  readonly laneRows: number;
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
  const { unit, rows, columns, rowTeams, columnTeams } = variant;
  const invocations = TEAM * rowTeams * columnTeams;
  const scoreStride = columns + 8;
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
    rowMatrices: rows / rowTeams / MATRIX_SIZE,
    scoreMatrices: columns / columnTeams / MATRIX_SIZE,
    outMatrices: headDim / columnTeams / MATRIX_SIZE,
    laneRows: rows / (rowTeams * columnTeams),
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
  columns: number,
  rowTeams: number,
  columnTeams: number,
  unit: MatrixUnit = "subgroup",
): ForwardVariant {
  return { kind: "forward_matrices", unit, rows, columns, rowTeams, columnTeams };
}

/** Variants; the first that suits the head dim and fits the device is taken. */
const FORWARD_VARIANTS: readonly { readonly maxHeadDim: number; readonly variant: ForwardVariant }[] = [
  { maxHeadDim: 64, variant: forwardMatrices(128, 32, 4, 1) },
  { maxHeadDim: 128, variant: forwardMatrices(64, 32, 2, 2) },
];

/** The variant that should be fastest on a device; none where it has no matrix units or they do not suit the head dim. */
export function chooseForwardVariant(
  headDim: number,
  { features, limits }: Pick<Dispatcher, "features" | "limits">,
): ForwardVariant | undefined {
  if (!features.subgroupMatrix || headDim % MATRIX_SIZE !== 0) return undefined;
  return FORWARD_VARIANTS.find(({ maxHeadDim, variant }) => {
    if (headDim > maxHeadDim) return false;
    const { invocations, memoryBytes, loads, queryColumns, outMatrices } = forwardShape(variant, headDim);
    const isEven = [loads, outMatrices, queryColumns / MATRIX_SIZE, variant.rows * queryColumns / 8 / invocations]
      .every(Number.isInteger);
    return isEven && invocations <= limits.maxInvocations && memoryBytes <= limits.maxWorkgroupMemoryBytes;
  })?.variant;
}
