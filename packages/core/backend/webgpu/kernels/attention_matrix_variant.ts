/**
 * The variants of the backward of attention on matrix units and which one is taken when: data to be edited after
 * measuring.
 *
 * @module
 */

import type { Dispatcher } from "../dispatch.ts";
import { MATRIX_SIZE, type MatrixUnit, TEAM } from "./matrix_unit.ts";

/** Gradients that a kernel computes: those of the queries, or those of keys and values. */
export type MatrixKernel = "attention_dq" | "attention_dkv";

/** How a workgroup of teams walks over the rows of the other side; see `attention_matrix_backward.ts`. */
export interface MatrixVariant {
  readonly kind: "matrices";
  /** How matrices are multiplied. */
  readonly unit: MatrixUnit;
  /**
   * Whether workgroup memory is seen as several types, so that rows are stored 16 bytes at a time and weights lie over
   * the scores that they come from. Barriers between what a team stores and loads itself are then left out, too: it is a
   * subgroup, whose instructions reach memory in their order.
   */
  readonly views: boolean;
  /** Rows that a team owns, a multiple of 16. */
  readonly rows: number;
  /** Teams of a workgroup. */
  readonly teams: number;
  /** Rows of the other side in workgroup memory. */
  readonly tile: number;
  /** Rows of the other side whose scores a team works out at a time: a divisor of `tile`, 16, 32, 64 or 128. */
  readonly step: number;
}

/** What follows from a variant for one kernel and head dim. */
export interface MatrixShape extends MatrixVariant {
  readonly headDim: number;
  /** Invocations of a workgroup. */
  readonly invocations: number;
  /** Rows that a workgroup owns. */
  readonly owned: number;
  /** From a row of a tile to the next, in f16; 8 more than it has, so that neighbouring rows meet different banks. */
  readonly tileStride: number;
  /** The same of scores, in f32, and of weights, in f16. */
  readonly scoreStride: number;
  /** f16 in both tiles. */
  readonly tileElements: number;
  /** f32 in the scores of a team, whose place gradients of weights take after them. */
  readonly scoreElements: number;
  /** f16 in the weights of a team: gradients of scores and, where keys are owned, weights. */
  readonly weightElements: number;
  /** Bytes of workgroup memory. */
  readonly memoryBytes: number;
}

/** Works out the sizes of a variant. */
export function matrixShape(variant: MatrixVariant, kernel: MatrixKernel, headDim: number): MatrixShape {
  const { unit, views, rows, teams, tile, step } = variant;
  const tileStride = headDim + 8;
  const scoreStride = step + 8;
  const tileElements = 2 * tile * tileStride;
  const scoreElements = rows * scoreStride;
  const weightElements = (kernel === "attention_dkv" ? 2 : 1) * rows * scoreStride;
  const halfBytes = unit === "subgroup" ? 2 : 4;
  const numbers = kernel === "attention_dkv" ? 2 * tile : 0;
  return {
    ...variant,
    headDim,
    invocations: TEAM * teams,
    owned: rows * teams,
    tileStride,
    scoreStride,
    tileElements,
    scoreElements,
    weightElements,
    memoryBytes: halfBytes * (tileElements + (views ? 0 : teams * weightElements)) +
      4 * (teams * scoreElements + numbers) + 16,
  };
}

/**
 * Whether rows are shared out evenly: each invocation loads one piece of eight columns of as many rows and at most one
 * row's numbers, own rows of whole teams pass through both tiles, and sums leave by as many columns as scores have.
 */
export function suits({ headDim, invocations, rows, tile, step }: MatrixShape): boolean {
  return headDim % step === 0 && invocations % (headDim / 8) === 0 && tile * headDim / 8 % invocations === 0 &&
    tile <= invocations && 2 * tile % rows === 0;
}

/** Shorthand for a {@linkcode MatrixVariant}. */
export function matrices(
  rows: number,
  teams: number,
  tile: number,
  step: number,
  { unit = "subgroup", views = false }: { unit?: MatrixUnit; views?: boolean } = {},
): MatrixVariant {
  return { kind: "matrices", unit, views, rows, teams, tile, step };
}

/** Variants by kernel and head dim; the first that is meant for the head dim and fits the device is taken. */
const MATRIX_VARIANTS: Readonly<
  Record<MatrixKernel, readonly { readonly maxHeadDim: number; readonly variant: MatrixVariant }[]>
> = {
  attention_dq: [
    { maxHeadDim: 64, variant: matrices(32, 8, 64, 16, { views: true }) },
    { maxHeadDim: 64, variant: matrices(32, 4, 64, 16, { views: true }) },
    { maxHeadDim: 128, variant: matrices(16, 8, 32, 32, { views: true }) },
    { maxHeadDim: 128, variant: matrices(16, 4, 32, 16, { views: true }) },
    { maxHeadDim: 128, variant: matrices(16, 4, 32, 16) },
  ],
  attention_dkv: [
    { maxHeadDim: 64, variant: matrices(32, 8, 64, 16, { views: true }) },
    { maxHeadDim: 64, variant: matrices(32, 4, 64, 16, { views: true }) },
    { maxHeadDim: 128, variant: matrices(16, 8, 64, 16, { views: true }) },
    { maxHeadDim: 128, variant: matrices(16, 4, 32, 16, { views: true }) },
    { maxHeadDim: 128, variant: matrices(16, 4, 32, 16) },
  ],
};

/** What of a device the choice depends on. */
export type MatrixDevice = Pick<Dispatcher, "features" | "limits">;

/** The variant that should be fastest on a device; none where it has no matrix units or they do not suit the head dim. */
export function chooseMatrixVariant(
  kernel: MatrixKernel,
  headDim: number,
  { features, limits }: MatrixDevice,
): MatrixVariant | undefined {
  if (!features.subgroupMatrix || headDim % MATRIX_SIZE !== 0) return undefined;
  return MATRIX_VARIANTS[kernel].find(({ maxHeadDim, variant }) => {
    if (headDim > maxHeadDim || variant.views && !features.bufferView) return false;
    const shape = matrixShape(variant, kernel, headDim);
    return suits(shape) && shape.invocations <= limits.maxInvocations &&
      shape.memoryBytes <= limits.maxWorkgroupMemoryBytes;
  })?.variant;
}
