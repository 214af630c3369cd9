/**
 * Matrix product through workgroup memory, for GPUs.
 *
 * A workgroup computes a tile of `out`. It walks along k in slabs: its invocations load a slab of both operands from
 * storage into registers while they still work on the one before, then put it into workgroup memory with k as the outer
 * dim, where every invocation reads vec4s along m and n for its own block of sums. Indexes into workgroup memory are
 * constants or do not change over the loop, so the bounds checks that WebGPU adds to them leave the loop.
 *
 * Where `out` has too few tiles to fill a GPU, as gradients of small weights over many tokens do, teams of invocations
 * share one tile: each team takes its part of every slab, and the sums are added up in the order of the teams. Where that
 * is not enough, workgroups sum up parts of k, which `matmul_parts.ts` adds up in order.
 *
 * @module
 */

import { LINEAR_INDEX } from "../dispatch.ts";
import { bindings, each, type MatmulForm, storeVector, tileOfPart, tileOrigin, XYZW } from "./matmul_form.ts";
import { slabBlocks } from "./matmul_slabs.ts";
import { tilesInvocations, type TilesVariant } from "./matmul_variant.ts";

/** WGSL of a tiles variant. */
export function tilesSource(variant: TilesVariant, form: MatmulForm): string {
  const { tileM, tileN, tileK, blockM, blockN, teams, buffers } = variant;
  const invocations = tilesInvocations(variant);
  const [partsM, partsN] = [blockM / 4, blockN / 4];
  const depth = tileK / teams;
  const slab = (extent: number) => `array<array<array<vec4f, ${extent / 4}>, ${depth}>, ${teams * buffers}>`;
  const blocks = slabBlocks(variant, form);
  const fetch = (k0: string) => blocks.map((block) => block.fetch(k0)).join("\n");
  const sums = (text: (name: string, row: number, part: number) => string) =>
    each(blockM, (row) => each(partsN, (part) => text(`sum${row}_${part}`, row, part)));
  const products = (d: number) =>
    each(partsM, (i) => `let a${d}_${i} = slab_a[slot][${d}][a_at${i}];`) + "\n" +
    each(partsN, (j) => `let b${d}_${j} = slab_b[slot][${d}][b_at${j}];`) + "\n" +
    sums((sum, row, part) =>
      `${sum} = fma(vec4f(a${d}_${Math.floor(row / 4)}.${XYZW[row % 4]}), b${d}_${part}, ${sum});`
    );
  return `${bindings(form)}
var<workgroup> slab_a: ${slab(tileM)};
var<workgroup> slab_b: ${slab(tileN)};
${teams > 1 ? `var<workgroup> team_sums: array<array<vec4f, ${invocations / teams}>, ${blockM * partsN}>;` : ""}
@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  ${tileOfPart(LINEAR_INDEX, form)}
  ${tileOrigin(tileM, tileN)}
  ${invocationPlace(variant)}
  ${each(partsM, (i) => `let a_at${i} = y + ${(i * tileM) / blockM}u;`)}
  ${each(partsN, (j) => `let b_at${j} = x + ${(j * tileN) / blockN}u;`)}
  ${blocks.map(({ before }) => before).join("\n")}
  ${sums((sum) => `var ${sum} = vec4f();`)}
  ${buffers > 1 ? "var buffer = 0u;" : ""}
  ${fetch("k_start")}
  for (var k0 = k_start; k0 < k_end; k0 += ${tileK}u) {
    let first_slot = ${buffers > 1 ? `buffer * ${teams}u` : "0u"};
    ${blocks.map(({ put }) => put).join("\n")}
    workgroupBarrier();
    let next = k0 + ${tileK}u;
    if (next < k_end) {
      ${fetch("next")}
    }
    let slot = first_slot + team;
    ${each(depth, products)}
    ${buffers > 1 ? "buffer = 1u - buffer;" : "workgroupBarrier();"}
  }
  ${addTeams(variant, sums)}
  if (team == 0u) {
    ${
    sums((sum, row, part) =>
      storeVector(form, `m0 + a_at${Math.floor(row / 4)} * 4u + ${row % 4}u`, `n0 + b_at${part} * 4u`, sum)
    )
  }
  }
}`;
}

/** WGSL of the place of an invocation: its team, and in units of 4 its place `x`, `y` among the blocks of the tile. */
function invocationPlace({ tileM, tileN, blockM, blockN, teams }: TilesVariant): string {
  const [rows, columns] = [tileM / blockM, tileN / blockN];
  const team = teams > 1 ? `let team = local / ${rows * columns}u;` : "const team = 0u;";
  // 8 × 4 neighbours read fewer distinct vec4s of workgroup memory together than 16 × 2 or 32 × 1 would.
  const [w, h] = columns % 8 === 0 && rows % 4 === 0 ? [8, 4] : [columns, 1];
  return `${team}
let member = local % ${rows * columns}u;
let x = member / ${w * h}u % ${columns / w}u * ${w}u + member % ${w}u;
let y = member / ${w * h}u / ${columns / w}u * ${h}u + member / ${w}u % ${h}u;`;
}

/** WGSL that adds the sums of all teams to those of the first, team by team. */
function addTeams(
  { teams, blockN }: TilesVariant,
  sums: (text: (name: string, row: number, part: number) => string) => string,
): string {
  const slot = (row: number, part: number) => `team_sums[${row * (blockN / 4) + part}][member]`;
  return each(teams - 1, (i) =>
    `if (team == ${i + 1}u) {
  ${sums((sum, row, part) => `${slot(row, part)} = ${sum};`)}
}
workgroupBarrier();
if (team == 0u) {
  ${sums((sum, row, part) => `${sum} += ${slot(row, part)};`)}
}
workgroupBarrier();`);
}
