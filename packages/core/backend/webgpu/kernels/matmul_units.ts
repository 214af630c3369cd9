/**
 * Matrix product of f16 operands by matrix units; see `matrix_unit.ts`.
 *
 * A workgroup computes a tile of `out`, and each of its teams a part of the tile, as sums of 16 × 16. It walks along k in
 * slabs: invocations load a slab of both operands from storage, 16 bytes each at a time, while the teams multiply the one
 * before, then put it into workgroup memory just as it lies in storage, since matrices are loaded by rows or by columns
 * alike. Rows in workgroup memory are padded, neighbours take rows apart, and words of a chunk are stored in an order that
 * depends on the lane, so that banks do not collide.
 *
 * Sums of f32 go straight to `out`, and come from there where they accumulate; sums for an f16 `out`, and those of tiles
 * that reach over its edge, pass through a strip of workgroup memory.
 *
 * @module
 */

import { LINEAR_INDEX } from "../dispatch.ts";
import { each, type MatmulForm, PARAM_NAMES, tileOfPart, tileOrigin } from "./matmul_form.ts";
import { tileOf, unitsInvocations, type UnitsVariant } from "./matmul_variant.ts";
import { MATRIX_SIZE, MatrixCode, type MatrixUnit, TEAM } from "./matrix_unit.ts";
import { declare } from "./wgsl.ts";

/** Halves of 16 bytes, which one load takes. */
export const CHUNK = 8;

/** Halves that a row in workgroup memory is longer than a row of the slab. */
const PADDING = 8;

/**
 * Numbers of the strip of 16 × 16 that a team's sums pass through. Its rows have no padding: above 24 KiB of workgroup
 * memory an H100 runs fewer workgroups side by side, and products take half as long again.
 */
const STRIP_SIZE = MATRIX_SIZE * MATRIX_SIZE;

/** WGSL of a units variant. */
export function unitsSource(variant: UnitsVariant, form: MatmulForm, unit: MatrixUnit): string {
  const { teamM, teamN, teamsN } = variant;
  const { tileM, tileN, tileK } = tileOf(variant);
  const invocations = unitsInvocations(variant);
  const matrices = new MatrixCode(unit);
  const a = slab("a", form, variant);
  const b = slab("b", form, variant);
  const [rows, columns] = [teamM / MATRIX_SIZE, teamN / MATRIX_SIZE];
  const sums = (text: (sum: string, i: number, j: number) => string) =>
    each(rows, (i) => each(columns, (j) => text(`sum${i}_${j}`, i, j)));
  const direct = !form.halfOut && !form.raggedM && !form.raggedN;
  const at = (i: number, j: number) => `out_at + ${i * MATRIX_SIZE}u * params.outStride + ${j * MATRIX_SIZE}u`;
  const products = (k: number) =>
    each(rows, (i) => `let a${k}_${i} = ${loadOperand(matrices, a, "left", `team_m + ${i * MATRIX_SIZE}u`, k)};`) +
    "\n" +
    each(columns, (j) => `let b${k}_${j} = ${loadOperand(matrices, b, "right", `team_n + ${j * MATRIX_SIZE}u`, k)};`) +
    "\n" + sums((sum, i, j) => matrices.multiply(sum, `a${k}_${i}`, `b${k}_${j}`));
  const main = `
@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  ${tileOfPart(LINEAR_INDEX, form)}
  ${tileOrigin(tileM, tileN)}
  let lane = local % ${TEAM}u;
  let team = local / ${TEAM}u;
  let team_m = team / ${teamsN}u * ${teamM}u;
  let team_n = team % ${teamsN}u * ${teamN}u;
  let out_at = params.outStart + (${
    form.inParts ? "part * params.m + " : ""
  }m0 + team_m) * params.outStride + n0 + team_n;
  ${wordOrder()}
  ${a.before}
  ${b.before}
  ${
    sums((sum, i, j) =>
      `var ${sum} = ${direct && form.accumulate ? matrices.sum("out", at(i, j), "params.outStride") : "Sum()"};`
    )
  }
  ${a.fetch("k_start")}
  ${b.fetch("k_start")}
  for (var k0 = k_start; k0 < k_end; k0 += ${tileK}u) {
    ${a.put}
    ${b.put}
    workgroupBarrier();
    let next = k0 + ${tileK}u;
    if (next < k_end) {
      ${a.fetch("next")}
      ${b.fetch("next")}
    }
    ${each(tileK / MATRIX_SIZE, (i) => products(i * MATRIX_SIZE))}
    workgroupBarrier();
  }
  ${
    direct
      ? sums((sum, i, j) => matrices.store("out", at(i, j), sum, "params.outStride"))
      : storeByStrips(variant, form, matrices)
  }
}`;
  return `${matrices.head}
${
    declare([
      ["a", "read", "vec4u"],
      ["b", "read", "vec4u"],
      ["out", "read_write", form.halfOut ? "vec4u" : "f32"],
    ], PARAM_NAMES)
  }
${a.memory}
${b.memory}
${direct ? "" : `var<workgroup> strips: array<f32, ${STRIP_SIZE * invocations / TEAM}>;`}
${direct ? "" : storeEight(form)}
${matrices.functions}
${main}`;
}

/** An operand's slab: how it lies in workgroup memory, and WGSL that brings it there. */
interface Slab {
  readonly name: "a" | "b";
  /** Whether k is the last dim of the operand. */
  readonly alongK: boolean;
  /** Halves from one row in workgroup memory to the next. */
  readonly stride: number;
  readonly memory: string;
  readonly before: string;
  fetch(k0: string): string;
  readonly put: string;
}

function slab(name: "a" | "b", form: MatmulForm, variant: UnitsVariant): Slab {
  const { tileM, tileN, tileK } = tileOf(variant);
  const [alongK, extent, origin, size, ragged] = name === "a"
    ? [form.layout !== "TN", tileM, "m0", "params.m", form.raggedM]
    : [form.layout === "NT", tileN, "n0", "params.n", form.raggedN];
  const [rows, columns] = alongK ? [extent, tileK] : [tileK, extent];
  const stride = columns + PADDING;
  const invocations = unitsInvocations(variant);
  const count = rows * columns / CHUNK / invocations;
  const start = (i: number) => {
    const across = alongK ? `${name}_row${i}` : `${name}_column${i}`;
    // No load leaves the operand: past its edge its last rows or columns are read, which are not stored.
    const inside = `${origin} + ${across}`;
    const place = ragged ? `min(${inside}, ${size} - ${alongK ? 1 : CHUNK}u)` : inside;
    return alongK
      ? `params.${name}Start + (${place}) * params.${name}Stride + ${name}_column${i} / ${CHUNK}u`
      : `params.${name}Start + ${name}_row${i} * params.${name}Stride + (${place}) / ${CHUNK}u`;
  };
  const load = (i: number, k0: string) => {
    const depth = alongK ? `${name}_column${i}` : `${name}_row${i}`;
    const step = alongK ? `${k0} / ${CHUNK}u` : `${k0} * params.${name}Stride`;
    const value = `${name}[${name}_at${i} + ${step}]`;
    if (!form.raggedK) return `${name}_chunk${i} = ${value};`;
    // Past k the numbers of both operands are zeros: what lies there might not be finite.
    return `${name}_chunk${i} = vec4u(); if (${k0} + ${depth} < params.k) { ${name}_chunk${i} = ${value}; }`;
  };
  return {
    name,
    alongK,
    stride,
    memory: `var<workgroup> slab_${name}: array<half, ${rows * stride}>;`,
    before: each(count, (i) =>
      `${chunkPlace(name, i, i * invocations, columns, stride)}
let ${name}_at${i} = ${start(i)};
let ${name}_to${i} = ${name}_row${i} * ${stride}u + ${name}_column${i};
var ${name}_chunk${i} = vec4u();`),
    fetch: (k0) => each(count, (i) => load(i, k0)),
    put: each(count, (i) => putChunk(name, i)),
  };
}

/**
 * WGSL that puts a chunk into workgroup memory, word by word. Eight neighbours' chunks fill all banks, so that the four
 * groups of eight that store at once each take another word of theirs: what a lane stores i-th is word i ^ turn.
 */
function putChunk(name: string, chunk: number): string {
  return `{
    let swapped = select(${name}_chunk${chunk}, ${name}_chunk${chunk}.yxwz, odd_turn);
    let turned = select(swapped, swapped.zwxy, high_turn);
    ${
    each(
      4,
      (i) =>
        `{ let pair = halves(turned.${"xyzw"[i]}); let to = ${name}_to${chunk} + word${i}; ` +
        `slab_${name}[to] = pair.x; slab_${name}[to + 1u] = pair.y; }`,
    )
  }
  }`;
}

/** WGSL of the order in which a lane stores the words of a chunk; see {@linkcode putChunk}. */
function wordOrder(): string {
  return `let turn = (local / ${CHUNK}u) % 4u;
  let odd_turn = vec4<bool>(turn % 2u == 1u);
  let high_turn = vec4<bool>(turn >= 2u);
  ${each(4, (i) => `let word${i} = 2u * (turn ^ ${i}u);`)}`;
}

/** WGSL of the row and first column within the slab of chunk `local + first`. */
function chunkPlace(name: string, i: number, first: number, columns: number, stride: number): string {
  const chunks = columns / CHUNK;
  const together = Math.max(1, CHUNK / chunks); // rows that eight neighbours, who store at once, lie in
  const step = rowStep(columns, stride, together);
  const number = `(local + ${first}u)`;
  if (together === 1) {
    return `let ${name}_row${i} = ${number} / ${chunks}u; let ${name}_column${i} = ${number} % ${chunks}u * ${CHUNK}u;`;
  }
  const group = `${number} / ${CHUNK}u`;
  return `let ${name}_row${i} = ${group} / ${step}u * ${together * step}u + ${group} % ${step}u + ` +
    `${number} % ${CHUNK}u / ${chunks}u * ${step}u;
let ${name}_column${i} = ${number} % ${chunks}u * ${CHUNK}u;`;
}

/** How far apart rows must be for `together` of them to lie in banks of their own; 32 banks of two halves. */
function rowStep(columns: number, stride: number, together: number): number {
  const apart = (step: number) =>
    new Set(Array.from({ length: together }, (_, i) => Math.floor(i * step * stride / 2 % 32 / (columns / 2)))).size;
  return [1, 2, 4, 8].find((step) => apart(step) === together) ?? 1;
}

function loadOperand(
  matrices: MatrixCode,
  { name, alongK, stride }: Slab,
  side: "left" | "right",
  place: string,
  k: number,
): string {
  const offset = alongK ? `(${place}) * ${stride}u + ${k}u` : `${k * stride}u + ${place}`;
  const order = alongK === (side === "left") ? "row_major" : "col_major";
  return matrices[side](`slab_${name}`, offset, stride, order);
}

/** Sums pass through a team's strip, one matrix at a time; each lane then stores half a row of it. */
function storeByStrips({ teamM, teamN }: UnitsVariant, form: MatmulForm, matrices: MatrixCode): string {
  const strips = each(
    teamM / MATRIX_SIZE,
    (i) =>
      each(teamN / MATRIX_SIZE, (j) =>
        `${matrices.store("strips", "strip", `sum${i}_${j}`, MATRIX_SIZE)}
workgroupBarrier();
store_eight(strip + lane / 2u * ${MATRIX_SIZE}u + lane % 2u * ${CHUNK}u, ${
          form.inParts ? "part * params.m" : "0u"
        }, m0 + team_m + ${i * MATRIX_SIZE}u + lane / 2u, n0 + team_n + ${j * MATRIX_SIZE}u + lane % 2u * ${CHUNK}u);
workgroupBarrier();`),
  );
  return `let strip = team * ${STRIP_SIZE}u;\n${strips}`;
}

/** WGSL of the function that stores eight columns of a strip, as far as they lie within `out`. */
function storeEight({ halfOut, accumulate }: MatmulForm): string {
  const body = halfOut
    ? `let place = params.outStart + row * params.outStride + column / ${CHUNK}u;
  let earlier = ${accumulate ? "out[place]" : "vec4u()"};
  out[place] = vec4u(${
      ["x", "y", "z", "w"].map((word, i) =>
        `pack2x16float(vec2f(strips[at + ${2 * i}u], strips[at + ${2 * i + 1}u])${
          accumulate ? ` + unpack2x16float(earlier.${word})` : ""
        })`
      ).join(", ")
    });`
    : each(
      CHUNK,
      (i) =>
        `if (column + ${i}u < params.n) { out[params.outStart + (first_row + row) * params.outStride + column + ${i}u] ` +
        `${accumulate ? "+=" : "="} strips[at + ${i}u]; }`,
    );
  return `fn store_eight(at: u32, first_row: u32, row: u32, column: u32) {
  if (row >= params.m || column >= params.n) { return; }
  ${body}
}`;
}
