/**
 * How a workgroup brings slabs of both operands from storage to workgroup memory; see `matmul_tiles.ts`.
 *
 * A slab is cut into blocks of 4 × 4 numbers, shared out among the invocations. An invocation loads the four vec4s of a
 * block as they lie in storage and stores four vec4s that run along m or n, so that an operand along k is transposed in
 * registers.
 *
 * @module
 */

import { each, type MatmulForm, XYZW } from "./matmul_form.ts";
import {
  fourStarts,
  loadAcross,
  loadAlong,
  type MatmulOperand,
  operandA,
  operandB,
  zeroPastK,
} from "./matmul_operand.ts";
import { tilesInvocations, type TilesVariant } from "./matmul_variant.ts";

/** WGSL of one block that an invocation brings: variables ahead of the loop, the loads of a slab, and the stores. */
export interface SlabBlock {
  /** Where the block lies, and variables for its numbers. */
  readonly before: string;
  /** Loads the block of the slab that starts at the expression `k0`. */
  fetch(k0: string): string;
  /** Stores the block into the slab at `first_slot`. */
  readonly put: string;
}

/** An operand and how its slab is cut. */
interface Slab {
  readonly operand: MatmulOperand;
  /** Rows or columns of the tile. */
  readonly extent: number;
  /** First row or column of the tile. */
  readonly origin: "m0" | "n0";
  /** Blocks before the slab's first, counted over both operands. */
  readonly firstBlock: number;
  /** One past the slab's last block. */
  readonly endBlock: number;
}

/** The blocks that each invocation brings; the number of the block is the same for no two invocations. */
export function slabBlocks(variant: TilesVariant, form: MatmulForm): SlabBlock[] {
  const { tileM, tileN, tileK } = variant;
  const blocksA = (tileM * tileK) / 16;
  const total = blocksA + (tileN * tileK) / 16;
  const a: Slab = { operand: operandA(form), extent: tileM, origin: "m0", firstBlock: 0, endBlock: blocksA };
  const b: Slab = { operand: operandB(form), extent: tileN, origin: "n0", firstBlock: blocksA, endBlock: total };
  const invocations = tilesInvocations(variant);
  return Array.from({ length: Math.ceil(total / invocations) }, (_, i) => {
    const [first, end] = [i * invocations, (i + 1) * invocations];
    const slabs = [a, b].filter(({ firstBlock, endBlock }) => firstBlock < end && endBlock > first);
    const choose = (text: (slab: Slab) => string) => chooseSlab(slabs, `block${i}`, end > total, text);
    return {
      before: `let block${i} = local + ${first}u;
var depth${i} = 0u;
var across${i} = 0u;
${each(4, (j) => `var at${i}_${j} = 0u;\nvar part${i}_${j} = vec4f();`)}
${choose((slab) => place(slab, variant, i))}`,
      fetch: (k0) => choose((slab) => fetch(slab, variant, form, i, k0)),
      put: choose((slab) => put(slab, variant, i)),
    };
  });
}

/** The text of the slab that a block belongs to, behind as few conditions as can be. */
function chooseSlab(slabs: readonly Slab[], block: string, guarded: boolean, text: (slab: Slab) => string): string {
  const branches = slabs.map((slab, i) =>
    i + 1 < slabs.length || guarded ? `if (${block} < ${slab.endBlock}u) {\n${text(slab)}\n}` : `{\n${text(slab)}\n}`
  );
  return branches.join(" else ");
}

/** Where block i lies: `depth` and `across`, its first k and its first row or column over 4, and its starts. */
function place({ operand, extent, origin, firstBlock }: Slab, { tileK }: TilesVariant, i: number): string {
  const [width, height] = [extent / 4, tileK / 4];
  // Across k, neighbours load neighbours. Along k, 4 neighbours load the 64 bytes of a row together, while the first 8
  // of a group store side by side.
  const [w, h] = operand.alongK ? [Math.min(8, width), Math.min(4, height)] : [width, 1];
  const number = firstBlock === 0 ? `block${i}` : `(block${i} - ${firstBlock}u)`;
  const group = `${number} / ${w * h}u`;
  const starts = fourStarts(operand, `${origin} + across${i} * 4u`);
  return `across${i} = ${group} % ${width / w}u * ${w}u + ${number} % ${w}u;
depth${i} = (${group} / ${width / w}u * ${h}u + ${number} / ${w}u % ${h}u) * 4u;
${starts.map((start, j) => `at${i}_${j} = ${start};`).join("\n")}`;
}

function fetch({ operand }: Slab, { tileK }: TilesVariant, form: MatmulForm, i: number, k0: string): string {
  const starts = [0, 1, 2, 3].map((j) => `at${i}_${j}`);
  const loads = (value: (j: number) => string) => each(4, (j) => `part${i}_${j} = ${value(j)};`);
  const depth = (j: number) => `${k0} + depth${i} + ${j}u`;
  const whole = operand.alongK
    ? loads((j) => loadAlong(operand, starts[j], depth))
    : loads((j) => loadAcross(operand, starts, depth(j)));
  if (!form.raggedK) return whole;
  // Past k the numbers of `a` are zeros, so those of `b` need not be.
  const zero = (value: string, past: string) => operand.name === "a" ? zeroPastK(value, past) : value;
  const last = (j: number) => `min(${depth(j)}, params.k - 1u)`;
  const depths = `vec4u(${each(4, depth, ", ")})`;
  const ragged = operand.alongK
    ? loads((j) => zero(loadAlong(operand, starts[j], last), depths))
    : loads((j) => zero(loadAcross(operand, starts, last(j)), depth(j)));
  return `if (${k0} + ${tileK}u <= params.k) {\n${whole}\n} else {\n${ragged}\n}`;
}

function put({ operand }: Slab, { tileK, teams }: TilesVariant, i: number): string {
  const teamDepth = tileK / teams;
  const slot = teams > 1 ? `first_slot + depth${i} / ${teamDepth}u` : "first_slot";
  const row = teams > 1 ? `depth${i} % ${teamDepth}u` : `depth${i}`;
  const value = (d: number) =>
    operand.alongK ? `vec4f(${each(4, (j) => `part${i}_${j}.${XYZW[d]}`, ", ")})` : `part${i}_${d}`;
  return each(4, (d) => `slab_${operand.name}[${slot}][${row} + ${d}u][across${i}] = ${value(d)};`);
}
