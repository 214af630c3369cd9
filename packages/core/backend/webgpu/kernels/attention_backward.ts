/**
 * Launchers of the backward of attention: one kernel whose workgroups own queries gives dq, one whose workgroups own
 * keys gives dk and dv, so that every sum has one owner and its order is fixed.
 * Dims: B batch, Sq and Sk query and key tokens of one sequence, H query heads, K kv heads, E head dim.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import type { AttentionInputs, AttentionShape } from "../../ops.ts";
import type { Dispatcher } from "../dispatch.ts";
import { laneKeyGradient, laneQueryGradient } from "./attention_lane_backward.ts";
import {
  areMatrixRows,
  attentionForm,
  type AttentionLaunch,
  launchAttention,
  MATRIX_LOAD,
} from "./attention_launch.ts";
import { matrixKeyGradient, matrixQueryGradient } from "./attention_matrix_backward.ts";
import { chooseMatrixVariant, type MatrixKernel, type MatrixVariant } from "./attention_matrix_variant.ts";
import { tileKeyGradient, tileQueryGradient } from "./attention_tile_backward.ts";
import { type AttentionVariant, chooseAttentionVariant, variantName } from "./attention_variant.ts";
import { ALL_TERMS, BACKWARD_OPERANDS, backwardOperands, type BackwardTerms } from "./attention_wgsl.ts";

/** Options of {@linkcode attentionBackward}. */
export interface AttentionBackwardOptions {
  /** How to compute dq. Default: what should be fastest on the device. */
  readonly queryVariant?: AttentionVariant | MatrixVariant;
  /** How to compute dk and dv. Default: what should be fastest on the device. */
  readonly keyVariant?: AttentionVariant | MatrixVariant;
}

/** The terms one by one, for devices whose kernels have too few bindings for all at once; each takes 8 at most. */
const SINGLE_TERMS: readonly BackwardTerms[] = [
  { dWeight: true, delta: false, value: false },
  { dWeight: false, delta: true, value: false },
  { dWeight: false, delta: false, value: true },
];

/** Launches `Ops.attentionBackward`. Queries and keys that do not fit a binding come in blocks that add up. */
export function attentionBackward(
  dispatcher: Dispatcher,
  { q, k, v, queryPositions, keyPositions }: AttentionInputs,
  dOut: Tensor,
  logSumExp: Tensor,
  delta: Tensor,
  { dq, dk, dv }: { dq: Tensor; dk: Tensor; dv: Tensor },
  shape: AttentionShape,
  options: AttentionBackwardOptions = {},
): void {
  const tensors = {
    ...{ q, k, v, query_positions: queryPositions, key_positions: keyPositions },
    ...{ d_out: dOut, lse: logSumExp, delta, dq, dk, dv },
  };
  const rows = [q, k, v, dOut, dq, dk, dv];
  const choose = (kernel: MatrixKernel) =>
    (takesMatrices(dispatcher, rows) ? chooseMatrixVariant(kernel, shape.headDim, dispatcher) : undefined) ??
      chooseAttentionVariant(kernel, shape.headDim, dispatcher);
  const queryVariant = options.queryVariant ?? choose("attention_dq");
  const keyVariant = options.keyVariant ?? choose("attention_dkv");
  const launches = [
    ...queryGradients(dispatcher, queryVariant),
    ...keyGradients(dispatcher, keyVariant),
  ];
  for (const launch of launches) launchAttention(dispatcher, launch, tensors, shape);
}

/** Whether kernels on matrix units can read these rows of heads, by all terms at once. */
function takesMatrices({ limits }: Dispatcher, rows: readonly Tensor[]): boolean {
  return areMatrixRows(rows) && BACKWARD_OPERANDS.keys.length <= limits.maxStorageBuffers;
}

/** All terms at once if the device has bindings enough, else one by one. */
function fittingTerms({ limits }: Dispatcher, owners: "queries" | "keys"): readonly BackwardTerms[] {
  if (BACKWARD_OPERANDS[owners].length <= limits.maxStorageBuffers) return [ALL_TERMS];
  return owners === "queries" ? SINGLE_TERMS.filter(({ value }) => !value) : SINGLE_TERMS;
}

function numberOf({ dWeight, delta, value }: BackwardTerms): number {
  return Number(dWeight) | Number(delta) << 1 | Number(value) << 2;
}

function queryGradients(dispatcher: Dispatcher, variant: AttentionVariant | MatrixVariant): AttentionLaunch[] {
  const kernel = `attention_dq ${variantName(variant)}`;
  if (variant.kind === "matrices") {
    return [matrixLaunch(kernel, variant, "queries", matrixQueryGradient)];
  }
  return fittingTerms(dispatcher, "queries").map((terms) => ({
    kernel,
    variant,
    code: (layout) => ({
      key: kernel,
      form: attentionForm(variant, layout, numberOf(terms)),
      write: () =>
        variant.kind === "tiles" ? tileQueryGradient(variant, layout, terms) : laneQueryGradient(variant, layout),
    }),
    operands: backwardOperands("queries", terms),
    owners: "queries",
  }));
}

function keyGradients(dispatcher: Dispatcher, variant: AttentionVariant | MatrixVariant): AttentionLaunch[] {
  const kernel = `attention_dkv ${variantName(variant)}`;
  if (variant.kind === "matrices") return [matrixLaunch(kernel, variant, "keys", matrixKeyGradient)];
  return fittingTerms(dispatcher, "keys").map((terms) => ({
    kernel,
    variant,
    code: (layout) => ({
      key: kernel,
      form: attentionForm(variant, layout, numberOf(terms)),
      write: () =>
        variant.kind === "tiles" ? tileKeyGradient(variant, layout, terms) : laneKeyGradient(variant, layout),
    }),
    operands: backwardOperands("keys", terms),
    owners: "keys",
  }));
}

function matrixLaunch(
  kernel: string,
  variant: MatrixVariant,
  owners: "queries" | "keys",
  make: typeof matrixQueryGradient,
): AttentionLaunch {
  return {
    kernel,
    variant,
    code: (layout) => ({
      key: kernel,
      form: attentionForm(variant, layout, 0),
      write: () => make(variant, layout.headDim, layout),
    }),
    operands: BACKWARD_OPERANDS[owners],
    owners,
    loadElements: MATRIX_LOAD,
  };
}
