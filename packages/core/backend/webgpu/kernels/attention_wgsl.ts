/**
 * WGSL that all attention kernels share. Rows of a head are read in pieces of four elements, whatever the head dim and
 * the alignment; the last piece is filled up with zeros. Dims: Sq and Sk query and key tokens of one sequence, E head
 * dim, V = ⌈E/4⌉ pieces of a row.
 *
 * Exponentials are taken to base 2, which devices compute directly: scores carry the factor log₂e, and a log-sum-exp
 * is multiplied by it where it enters and divided by it where it leaves.
 *
 * @module
 */

import { EMPTY_LOG_SUM_EXP } from "../../ops.ts";
import { type Access, LINEAR_INDEX } from "../dispatch.ts";
import type { RangeLayout } from "./attention_bounds.ts";
import { TEAM } from "./matrix_unit.ts";
import { type Binding, declare, type VectorWidth } from "./wgsl.ts";

/** Score of a key that a query does not see: finite, and so far below any score that its weight is zero. */
export const MASKED = "-3e38";

/** Log-sum-exp that makes every weight zero, of queries that only fill up a tile. */
export const UNREACHED = "3e38";

/** log₂e, as WGSL. */
export const LOG2_E = "1.4426950408889634";

/** ln 2, as WGSL. */
export const LN_2 = "0.6931471805599453";

/** `EMPTY_LOG_SUM_EXP`, as WGSL. */
export const EMPTY = String(EMPTY_LOG_SUM_EXP);

/** Log-sum-exp below which a query has met no key yet; half of `EMPTY_LOG_SUM_EXP`, in WGSL. */
export const EMPTY_BOUND = "-5e29";

/** A tensor of an attention kernel, by what its rows hold. */
export interface AttentionOperand {
  /** Name in WGSL; the param `<name>_at` tells where its first element or piece lies in the binding. */
  readonly name: string;
  /** Rows of query heads, rows of kv heads, one number per row and query head, or positions. */
  readonly holds: "query_heads" | "key_heads" | "number" | "positions";
  /** How the kernel uses it. */
  readonly access: Access;
}

/** Tensors of the forward kernel, in the order of its bindings. */
export const FORWARD_OPERANDS: readonly AttentionOperand[] = [
  { name: "q", holds: "query_heads", access: "read" },
  { name: "k", holds: "key_heads", access: "read" },
  { name: "v", holds: "key_heads", access: "read" },
  { name: "query_positions", holds: "positions", access: "read" },
  { name: "key_positions", holds: "positions", access: "read" },
  { name: "out", holds: "query_heads", access: "read_write" },
  { name: "lse", holds: "number", access: "read_write" },
];

/**
 * What a backward kernel adds up. The gradient of a score is weight · (dWeight − delta), where dWeight = dOut · v; a
 * device with few bindings takes its two terms, and dv, in kernels of their own.
 */
export interface BackwardTerms {
  /** The share of dq or dk that comes with dWeight. */
  readonly dWeight: boolean;
  /** The share of dq or dk that comes with delta. */
  readonly delta: boolean;
  /** dv. */
  readonly value: boolean;
}

/** Everything in one kernel: 9 storage buffers for dq, 10 for dk and dv. */
export const ALL_TERMS: BackwardTerms = { dWeight: true, delta: true, value: true };

/** Tensors of a backward kernel, in the order of its bindings: dq where it owns queries, dk and dv where it owns keys. */
export function backwardOperands(owners: "queries" | "keys", terms: BackwardTerms): readonly AttentionOperand[] {
  const { dWeight, delta, value } = terms;
  const dScore = dWeight || delta;
  const ofKeys = owners === "keys";
  const operands: readonly [boolean, AttentionOperand][] = [
    [true, { name: "q", holds: "query_heads", access: "read" }],
    [true, { name: "k", holds: "key_heads", access: "read" }],
    [dWeight, { name: "v", holds: "key_heads", access: "read" }],
    [true, { name: "query_positions", holds: "positions", access: "read" }],
    [true, { name: "key_positions", holds: "positions", access: "read" }],
    [dWeight || value, { name: "d_out", holds: "query_heads", access: "read" }],
    [true, { name: "lse", holds: "number", access: "read" }],
    [delta, { name: "delta", holds: "number", access: "read" }],
    [!ofKeys, { name: "dq", holds: "query_heads", access: "read_write" }],
    [ofKeys && dScore, { name: "dk", holds: "key_heads", access: "read_write" }],
    [ofKeys && value, { name: "dv", holds: "key_heads", access: "read_write" }],
  ];
  return operands.filter(([wanted]) => wanted).map(([, operand]) => operand);
}

/** Tensors of the backward kernels with all terms. */
export const BACKWARD_OPERANDS = {
  queries: backwardOperands("queries", ALL_TERMS),
  keys: backwardOperands("keys", ALL_TERMS),
} as const;

/** What of the layout is compiled into an attention kernel. */
export interface AttentionLayout extends RangeLayout {
  /** Head dim E. */
  readonly headDim: number;
  /** Elements per load: 4 when every row of a head starts at a multiple of four elements of its binding. */
  readonly width: VectorWidth;
  /** Names of the operands that hold rows of heads as f16, in pairs; the others are f32. */
  readonly halves: readonly string[];
}

/** Elements of an operand in one element of its binding, as which params tell where it lies. */
export function elementsBound({ name, holds }: AttentionOperand, { width, halves }: AttentionLayout): number {
  if (holds === "positions" || holds === "number") return 1;
  return width === 1 && halves.includes(name) ? 2 : width;
}

/** Names of the params that every attention kernel has, before the places of its operands. */
export const ATTENTION_PARAMS = [
  "queries",
  "keys",
  "heads",
  "kv_heads",
  "tiles",
  "workgroups",
  "scale: f32",
] as const;

/** Numbers from 0 to count − 1. */
export function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

/** One line per number from 0 to count − 1. */
export function lines(count: number, line: (i: number) => string): string {
  return range(count).map(line).join("\n");
}

/** Pieces of four elements in a row of one head. */
export function piecesOf(headDim: number): number {
  return Math.ceil(headDim / 4);
}

/**
 * Bindings, params, and for each operand `<name>` the functions that reach it:
 * `load_<name>(row, head, piece)` for rows of heads, `store_<name>(row, head, piece, value)` and
 * `add_<name>(row, head, piece, value)` too when they are written; `<name>_index(row, head)` for numbers.
 */
export function operandCode(operands: readonly AttentionOperand[], layout: AttentionLayout): string {
  const bindings = operands.map((operand): Binding => {
    const { name, holds, access } = operand;
    const isHalf = layout.halves.includes(name);
    const isVector = elementsBound(operand, layout) === 4;
    const element = holds === "positions" ? "u32" : isHalf ? isVector ? "vec2u" : "u32" : isVector ? "vec4f" : "f32";
    return [name, access, element];
  });
  const params = [...ATTENTION_PARAMS, ...operands.map(({ name }) => `${name}_at`)];
  return declare(bindings, params) + operands.map((operand) => reachCode(operand, layout)).join("");
}

function reachCode(operand: AttentionOperand, layout: AttentionLayout): string {
  const { name, holds, access } = operand;
  const { headDim, width, halves } = layout;
  if (holds === "positions") return "";
  const heads = holds === "key_heads" ? "kv_heads" : "heads";
  const row = `params.${name}_at + row * params.${heads} + head`;
  if (holds === "number") return `fn ${name}_index(row: u32, head: u32) -> u32 { return ${row}; }\n`;
  const rowOfHead = `(row * params.${heads} + head)`;
  const bound = elementsBound(operand, layout);
  const at = width === 4
    ? `params.${name}_at + ${rowOfHead} * ${piecesOf(headDim)}u + piece`
    : `params.${name}_at + ${rowOfHead} * ${headDim / bound}u + piece * ${4 / bound}u`;
  const moves = halves.includes(name) ? halfMoves(name, width) : floatMoves(name, width);
  const move = (moves: readonly string[]) => moves.length === 1 ? moves[0] : elementwise(headDim, moves);
  const args = "row: u32, head: u32, piece: u32";
  const load = `fn load_${name}(${args}) -> vec4f {
  let at = ${at};
  var value = vec4f(0.0);
  ${move(moves.load)}
  return value;
}
`;
  if (access === "read") return load;
  return load + (["store", "add"] as const).map((verb) =>
    `fn ${verb}_${name}(${args}, value: vec4f) {
  let at = ${at};
  ${move(moves[verb])}
}
`
  ).join("");
}

/** Statements that move a piece between `value` and memory: one for all of it, or one for each part of it. */
type Moves = Readonly<Record<"load" | "store" | "add", readonly string[]>>;

function floatMoves(name: string, width: VectorWidth): Moves {
  const places = width === 4 ? [[`${name}[at]`, ""]] : range(4).map((i) => [`${name}[at + ${i}u]`, `.${"xyzw"[i]}`]);
  return {
    load: places.map(([element, component]) => `value${component} = ${element};`),
    store: places.map(([element, component]) => `${element} = value${component};`),
    add: places.map(([element, component]) => `${element} += value${component};`),
  };
}

function halfMoves(name: string, width: VectorWidth): Moves {
  if (width === 4) {
    const before = `vec4f(unpack2x16float(${name}[at].x), unpack2x16float(${name}[at].y))`;
    const store = (value: string) =>
      `let sum = ${value}; ${name}[at] = vec2u(pack2x16float(sum.xy), pack2x16float(sum.zw));`;
    return { load: [`value = ${before};`], store: [store("value")], add: [store(`${before} + value`)] };
  }
  const places = [[`${name}[at]`, "xy"], [`${name}[at + 1u]`, "zw"]];
  return {
    // A swizzle of two components cannot be assigned to.
    load: places.map(([word, [a, b]]) =>
      `{ let pair = unpack2x16float(${word}); value.${a} = pair.x; value.${b} = pair.y; }`
    ),
    store: places.map(([word, pair]) => `${word} = pack2x16float(value.${pair});`),
    add: places.map(([word, pair]) => `${word} = pack2x16float(unpack2x16float(${word}) + value.${pair});`),
  };
}

/** The statements of a piece in parts; the last piece of a row may have fewer parts than the others. */
function elementwise(headDim: number, moves: readonly string[]): string {
  const tail = headDim % 4 * moves.length / 4;
  if (tail === 0) return moves.join(" ");
  return `if (piece < ${piecesOf(headDim) - 1}u) { ${moves.join(" ")} } else { ${moves.slice(0, tail).join(" ")} }`;
}

/**
 * `a · b` added to `sum`, as a chain of products that GPU compilers fuse into multiply-adds; `dot` they would not.
 */
export function addDot(sum: string, a: string, b: string): string {
  return `${sum} = ${sum} + ${a}.x * ${b}.x + ${a}.y * ${b}.y + ${a}.z * ${b}.z + ${a}.w * ${b}.w;`;
}

/**
 * Entry point of kernels whose workgroups each have a tile of one head and sequence: finds `sequence` and `head`.
 *
 * @param heads WGSL of the number of heads
 */
export function attentionMain(invocations: number, heads: string, body: string): string {
  return `
@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let index = ${LINEAR_INDEX};
  if (index >= params.workgroups) { return; }
  let head = index / params.tiles % ${heads};
  let sequence = index / (params.tiles * ${heads});
${body}}
`;
}

/** Stores eight elements, the vec4u `value`, from `at` on in an array of `half`. */
export function storeHalves(array: string, at: string, value: string): string {
  return `
    {
      let to = ${at};
${
    lines(4, (i) =>
      `      let pair_${i} = halves(${value}.${"xyzw"[i]});
      ${array}[to + ${2 * i}u] = pair_${i}.x;
      ${array}[to + ${2 * i + 1}u] = pair_${i}.y;`)
  }
    }`;
}

/** As {@linkcode attentionMain} for kernels on matrix units, with the invocation's `lane` and `team`. */
export function matrixMain(invocations: number, heads: string, body: string): string {
  return attentionMain(
    invocations,
    heads,
    `  let lane = local % ${TEAM}u;
  let team = local / ${TEAM}u;
${body}`,
  );
}
