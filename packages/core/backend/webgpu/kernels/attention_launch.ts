/**
 * What the attention launchers share: splitting what does not fit a binding, and turning operands into a dispatch.
 * Dims: B batch, Sq and Sk query and key tokens of one sequence, H query heads, K kv heads, E head dim.
 *
 * @module
 */

import { Scope } from "../../../tensor/scope.ts";
import { ELEMENT_BYTES, elementBytes } from "../../../tensor/shape.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import type { AttentionShape } from "../../ops.ts";
import {
  bindingElements,
  canVectorize,
  type Dispatcher,
  type KernelSource,
  type KernelTensor,
  linearGrid,
  residual,
  type RowBlock,
} from "../dispatch.ts";
import { searchesPerRow } from "./attention_bounds.ts";
import { type LaunchVariant, maxStreamedRows, ownedRows, variantNumber } from "./attention_variant.ts";
import { type AttentionLayout, type AttentionOperand, elementsBound } from "./attention_wgsl.ts";
import { vectorWidth } from "./wgsl.ts";

/** Blocks that rows are split into are a multiple of this, if they are larger; of which the rows of a tile are a part. */
const BLOCK_MULTIPLE = 128;

/** Elements of f16 that one load of kernels on matrix units brings, a vec4u. */
export const MATRIX_LOAD = 8;

/** Whether rows of heads are what kernels on matrix units read: f16, {@linkcode MATRIX_LOAD} elements at a time. */
export function areMatrixRows(rows: readonly Tensor[]): boolean {
  return rows.every(({ dtype }) => dtype === "f16") && canVectorize(rows, [], MATRIX_LOAD);
}

/** Tensors of an attention kernel by the names of its operands. */
export type AttentionTensors = Readonly<Record<string, Tensor>>;

/** A kernel and the rows that its workgroups own. */
export interface AttentionLaunch {
  /** Kernel and variant, for the profile. */
  readonly kernel: string;
  /** How it is computed. */
  readonly variant: LaunchVariant;
  /** Makes the WGSL for one part of the work. */
  readonly code: (layout: AttentionLayout, part: AttentionPart) => KernelSource;
  /** Operands in the order of bindings. */
  readonly operands: readonly AttentionOperand[];
  /** Side whose rows the workgroups own; the rows of the other side stream past. */
  readonly owners: "queries" | "keys";
  /** Elements of rows of heads that an element of their bindings holds. Default: what the layout says. */
  readonly loadElements?: number;
}

/** What a dispatch sees of the sequences. */
export interface AttentionPart {
  /** Sequences, at least one. */
  readonly sequences: RowBlock;
  /** Queries of each sequence. */
  readonly queries: RowBlock;
  /** Keys of each sequence. */
  readonly keys: RowBlock;
}

/**
 * Dispatches a kernel, on all sequences at once if every tensor fits a binding and every loop its limit of turns; else
 * on several whole sequences at a time; else on blocks of queries of one sequence, each with all blocks of keys in turn.
 *
 * @throws {RangeError} when one row does not fit a binding
 */
export function launchAttention(
  dispatcher: Dispatcher,
  launch: AttentionLaunch,
  tensors: AttentionTensors,
  shape: AttentionShape,
): void {
  for (const part of attentionParts(dispatcher, launch, tensors, shape)) {
    dispatchPart(dispatcher, launch, tensors, shape, part);
  }
}

function attentionParts(
  { limits }: Dispatcher,
  { variant, owners, operands }: AttentionLaunch,
  tensors: AttentionTensors,
  shape: AttentionShape,
): AttentionPart[] {
  const { batch, heads, kvHeads, headDim } = shape;
  const { q, query_positions, key_positions } = tensors;
  const dtype = operands.every((operand) => !isRows(operand) || tensors[operand.name].dtype === "f16") ? "f16" : "f32";
  const fitting = bindingElements(limits, dtype);
  const ranged = isRanged(query_positions);
  const perWord = ELEMENT_BYTES / elementBytes(dtype);
  const queryElements = Math.max(heads * headDim, perWord * Math.max(heads, ranged ? 2 : 1));
  const streamed = maxStreamedRows(variant, headDim, {
    maxLoopTurns: limits.maxLoopTurns,
    passes: owners === "keys" ? heads / kvHeads : 1,
    searches: searchesPerRow({ ranged }),
  });
  const maxQueries = Math.min(Math.floor(fitting / queryElements), owners === "keys" ? streamed : Infinity);
  const maxKeys = Math.min(Math.floor(fitting / (kvHeads * headDim)), owners === "queries" ? streamed : Infinity);
  if (maxQueries < 1 || maxKeys < 1) {
    throw new RangeError(
      `Cannot bind rows of ${heads} heads of ${headDim} elements: a binding holds at most ${limits.maxBindingBytes} bytes`,
    );
  }
  const queries = { start: 0, end: q.shape[0] / batch };
  const keys = { start: 0, end: key_positions.size };
  if (queries.end <= maxQueries && keys.end <= maxKeys) {
    const elements = Math.max(1, queries.end * queryElements, keys.end * kvHeads * headDim);
    return blocks(batch, Math.floor(fitting / elements)).map((sequences) => ({ sequences, queries, keys }));
  }
  return blocks(batch, 1).flatMap((sequences) =>
    blocks(queries.end, wholeTiles(maxQueries)).flatMap((queries) =>
      blocks(keys.end, wholeTiles(maxKeys)).map((keys) => ({ sequences, queries, keys }))
    )
  );
}

/** Rows of a block that cut no tile where a tile fits. */
function wholeTiles(rows: number): number {
  return rows < BLOCK_MULTIPLE || rows === Infinity ? rows : Math.floor(rows / BLOCK_MULTIPLE) * BLOCK_MULTIPLE;
}

/** Blocks of at most `step` rows; one empty block when there are no rows. */
function blocks(rows: number, step: number): RowBlock[] {
  const found: RowBlock[] = [];
  for (let start = 0; start === 0 || start < rows; start += step) {
    found.push({ start, end: Math.min(rows, start + step) });
  }
  return found;
}

function dispatchPart(
  dispatcher: Dispatcher,
  { kernel, variant, code, operands, owners, loadElements }: AttentionLaunch,
  tensors: AttentionTensors,
  shape: AttentionShape,
  part: AttentionPart,
): void {
  using scope = new Scope();
  const { heads, kvHeads, batch } = shape;
  const layout = attentionLayout(operands, tensors, shape);
  const bound: KernelTensor[] = [];
  const places: number[] = [];
  for (const operand of operands) {
    const { name, holds, access } = operand;
    const block = holds === "key_heads" || name === "key_positions" ? part.keys : part.queries;
    const ofSequences = holds !== "positions" || name === "query_positions" && layout.ranged;
    const tensor = rowsOf(scope, tensors[name], block, ofSequences ? part.sequences : undefined, batch);
    bound.push({ tensor, access });
    const place = isRows(operand) && loadElements ? loadElements : elementsBound(operand, layout);
    places.push(residual(tensor) / place);
  }
  const queries = part.queries.end - part.queries.start;
  const keys = part.keys.end - part.keys.start;
  const tiles = Math.ceil((owners === "queries" ? queries : keys) / ownedRows(variant));
  const workgroups = tiles * (owners === "queries" ? heads : kvHeads) * (part.sequences.end - part.sequences.start);
  dispatcher.run({
    kernel,
    code: code(layout, part),
    tensors: bound,
    params: [queries, keys, heads, kvHeads, tiles, workgroups, { f32: shape.scale }, ...places],
    workgroups: linearGrid(workgroups),
  });
}

/** A block of rows, of these sequences where the tensor has rows of all; the tensor itself where that is all of it. */
function rowsOf(scope: Scope, tensor: Tensor, block: RowBlock, sequences: RowBlock | undefined, batch: number): Tensor {
  const rows = tensor.shape[0];
  const tokens = rows / batch;
  const start = (sequences ? sequences.start * tokens : 0) + block.start;
  const end = (sequences ? (sequences.end - 1) * tokens : 0) + block.end;
  return start === 0 && end === rows ? tensor : scope.own(tensor.rows(start, end));
}

function attentionLayout(
  operands: readonly AttentionOperand[],
  tensors: AttentionTensors,
  { headDim }: AttentionShape,
): AttentionLayout {
  const rows: Tensor[] = [];
  const halves: string[] = [];
  for (const operand of operands) {
    if (!isRows(operand)) continue;
    const tensor = tensors[operand.name];
    rows.push(tensor);
    if (tensor.dtype === "f16") halves.push(operand.name);
  }
  return { headDim, width: vectorWidth(rows, [headDim]), ranged: isRanged(tensors.query_positions), halves };
}

function isRows({ holds }: AttentionOperand): boolean {
  return holds === "query_heads" || holds === "key_heads";
}

/** Operands that may be halves. */
const ROWS_OPERANDS: readonly string[] = ["q", "k", "v", "out", "d_out", "dq", "dk", "dv"];

/**
 * A number for all that the text of an attention kernel depends on save the name of its variant; see `KernelSource`.
 *
 * @param options what else it depends on, below 8
 */
export function attentionForm(variant: LaunchVariant, layout: AttentionLayout, options: number): number {
  const { headDim, width, ranged, halves } = layout;
  let flags = Number(ranged) | Number(width === 4) << 1 | options << 2;
  for (const name of halves) flags |= 32 << ROWS_OPERANDS.indexOf(name);
  return (headDim * 4096 + variantNumber(variant)) * 8192 + flags;
}

/** Whether a tensor of `AttentionInputs.queryPositions` holds a range for each row. */
function isRanged(queryPositions: Tensor): boolean {
  return queryPositions.shape.length === 2;
}
