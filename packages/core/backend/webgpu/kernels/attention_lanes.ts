/**
 * Attention for drivers that compute on the CPU, where an invocation is a lane of a SIMD register, barriers are dear
 * and a load costs as much as dozens of products. Each lane owns a few rows and keeps them, and what it sums up, in
 * variables; the rows of the other side stream past in small blocks. A block is loaded once by all lanes of a subgroup
 * together, each a different piece, and handed round by shuffles; without subgroups every lane loads all of it.
 * Dims: Sq and Sk query and key tokens of one sequence, E head dim, V = ⌈E/4⌉ pieces of a row.
 *
 * @module
 */

import { LINEAR_INDEX } from "../dispatch.ts";
import type { LaneVariant } from "./attention_variant.ts";
import { lines } from "./attention_wgsl.ts";

/** How a block of streamed rows reaches the lanes. */
export interface LaneStream {
  /** Declarations before the loop. */
  readonly prepare: string;
  /** Start of a turn: finds the block of rows from `first` on in a sequence at `base`; rows past `last` repeat it. */
  begin(first: string, base: string, last: string): string;
  /** Loads the block of a tensor. */
  load(name: string, head: string): string;
  /** Expression of one piece of a row of the block that was loaded. */
  at(name: string, head: string, row: number, piece: number): string;
}

/** The stream of a variant. */
export function laneStream({ lanes, block, shuffle }: LaneVariant, pieces: number): LaneStream {
  if (!shuffle) {
    return {
      prepare: "",
      begin: (first, base, last) =>
        lines(block, (j) => `let streamed_${j} = ${base} + min(${first} + ${j}u, ${last});`),
      load: () => "",
      at: (name, head, row, piece) => `load_${name}(streamed_${row}, ${head}, ${piece}u)`,
    };
  }
  const loads = Math.ceil(block * pieces / lanes);
  return {
    prepare: lines(loads, (i) => `
  let part_${i} = min(${i * lanes}u + lane, ${block * pieces - 1}u);
  let part_row_${i} = part_${i} / ${pieces}u;
  let part_piece_${i} = part_${i} % ${pieces}u;`),
    begin: (first, base, last) =>
      lines(loads, (i) => `let streamed_${i} = ${base} + min(${first} + part_row_${i}, ${last});`),
    load: (name, head) =>
      lines(loads, (i) => `let ${name}_part_${i} = load_${name}(streamed_${i}, ${head}, part_piece_${i});`),
    at: (name, _head, row, piece) => {
      const part = row * pieces + piece;
      return `subgroupShuffle(${name}_part_${Math.floor(part / lanes)}, ${part % lanes}u)`;
    },
  };
}

/** Entry point: finds the workgroup's sequence, head and tile, and its `lane`. */
export function laneMain({ lanes, shuffle }: LaneVariant, heads: "heads" | "kv_heads", body: string): string {
  return `
@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(${shuffle ? "subgroup_invocation_id" : "local_invocation_index"}) lane: u32,
) {
  let index = ${LINEAR_INDEX};
  if (index >= params.workgroups) { return; }
  let head = index / params.tiles % params.${heads};
  let sequence = index / (params.tiles * params.${heads});
${body}}
`;
}

/**
 * Declares for each row r that a lane owns: `place_r`, its number in the sequence before it is kept below `count`;
 * `own_r`, its number after that; `row_r`, its row in the tensors.
 */
export function ownRows({ lanes, rows }: LaneVariant, tile: string, count: string): string {
  return `
  let first_row = ${tile} * ${lanes * rows}u;
${
    lines(rows, (r) => `
  let place_${r} = first_row + ${r * lanes}u + lane;
  let own_${r} = min(place_${r}, ${count} - 1u);
  let row_${r} = sequence * ${count} + own_${r};`)
  }`;
}

/** The last row that the lanes of a workgroup own; an expression. */
export function lastOwn({ lanes, rows }: LaneVariant, count: string): string {
  return `min(first_row + ${lanes * rows - 1}u, ${count} - 1u)`;
}
