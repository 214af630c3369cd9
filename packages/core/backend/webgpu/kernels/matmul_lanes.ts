/**
 * Matrix product from registers alone, for software drivers: no workgroup memory and no barriers.
 *
 * One workgroup is one subgroup. Each invocation owns four columns of the tile and all its rows. On a software driver an
 * invocation is a lane of a vector register, arithmetic runs at the full width of it, but a load walks through the
 * lanes one by one whatever they want. So no element of `a` is loaded twice: the lanes load different vec4s of the tile
 * of `a`, and each number then reaches the other lanes by a shuffle from a constant lane, one vector instruction.
 * Without subgroups every lane loads all of `a` that the tile needs.
 *
 * @module
 */

import { LINEAR_INDEX } from "../dispatch.ts";
import { bindings, each, type MatmulForm, storeVector, tileOrigin, XYZW } from "./matmul_form.ts";
import {
  fourStarts,
  loadAcross,
  loadAlong,
  type MatmulOperand,
  operandA,
  operandB,
  rowStart,
  zeroPastK,
} from "./matmul_operand.ts";
import { LANES_DEPTH, type LanesVariant, tileOf } from "./matmul_variant.ts";

/** WGSL of a lanes variant. */
export function lanesSource(variant: LanesVariant, form: MatmulForm): string {
  const { tileM, lanes, shuffle } = variant;
  const a = sourceOfA(variant, form);
  const b = sourceOfB(form);
  const depth = (d: number) => form.raggedK ? `min(k0 + ${d}u, params.k - 1u)` : `k0 + ${d}u`;
  const row = (r: number) =>
    each(LANES_DEPTH, (d) => `let s${r}_${d} = ${a.value(r, d)};`) + "\n" +
    each(LANES_DEPTH, (d) => `sum${r} = fma(vec4f(s${r}_${d}), b_${d}, sum${r});`);
  return `${bindings(form)}
@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) wid: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(${shuffle ? "subgroup_invocation_id" : "local_invocation_index"}) lane: u32,
) {
  let tile = ${LINEAR_INDEX};
  ${tileOrigin(tileM, tileOf(variant).tileN)}
  let column = n0 + lane * 4u;
  ${a.before}
  ${b.before}
  ${each(tileM, (r) => `var sum${r} = vec4f();`)}
  for (var k0 = 0u; k0 < params.k; k0 += ${LANES_DEPTH}u) {
    ${each(LANES_DEPTH, (d) => `let d${d} = ${depth(d)};`)}
    ${a.load}
    ${b.load}
    ${each(tileM, row)}
  }
  ${each(tileM, (r) => storeVector(form, `m0 + ${r}u`, "column", `sum${r}`))}
}`;
}

/** WGSL of an operand: what is computed ahead of the loop over k, and the loads of one iteration. */
interface OperandSource {
  readonly before: string;
  readonly load: string;
}

function sourceOfA(
  { tileM, lanes, shuffle }: LanesVariant,
  form: MatmulForm,
): OperandSource & { value(row: number, depth: number): string } {
  const a = operandA(form);
  const sharing = shuffle ? lanes : 1;
  const lane = shuffle ? "lane" : "0u";
  const from = (value: string, sharer: number) => shuffle ? `subgroupShuffle(${value}, ${sharer}u)` : value;
  if (!a.alongK) {
    const count = tileM / 4 / sharing;
    return {
      before: each(count, (i) => lets(`a${i}_at`, fourStarts(a, `m0 + (${sharing * i}u + ${lane}) * 4u`))),
      load: each(count, (i) => loadDepths(`a${i}`, a, form.raggedK)),
      value: (r, d) => {
        const vector = Math.floor(r / 4);
        return from(`a${Math.floor(vector / sharing)}_${d}.${XYZW[r % 4]}`, vector % sharing);
      },
    };
  }
  const count = tileM / sharing;
  const load = (i: number) => {
    const value = loadAlong(a, `a${i}_at`, (d) => `d${d}`);
    // A row bound as vec4s is a multiple of 4 long, so that the four depths never pass its end.
    return form.raggedK && !a.vector ? zeroPastK(value, "vec4u(k0, k0 + 1u, k0 + 2u, k0 + 3u)") : value;
  };
  return {
    before: each(count, (i) => `let a${i}_at = ${rowStart(a, `m0 + ${sharing * i}u + ${lane}`)};`),
    load: each(count, (i) => `let a${i} = ${load(i)};`),
    value: (r, d) => from(`a${Math.floor(r / sharing)}.${XYZW[d]}`, r % sharing),
  };
}

function sourceOfB(form: MatmulForm): OperandSource {
  const b = operandB(form);
  const before = lets("b_at", fourStarts(b, "column"));
  // Past k the numbers of `a` are zeros, so those of `b` need not be.
  if (!b.alongK) return { before, load: loadDepths("b", b, false) };
  const column = (i: number) => `let column${i} = ${loadAlong(b, `b_at${i}`, (d) => `d${d}`)};`;
  const transposed = (d: number) => `let b_${d} = vec4f(${each(4, (i) => `column${i}.${XYZW[d]}`, ", ")});`;
  return { before, load: each(4, column) + "\n" + each(LANES_DEPTH, transposed) };
}

function lets(name: string, values: readonly string[]): string {
  return values.map((value, i) => `let ${name}${i} = ${value};`).join("\n");
}

/** The four columns at each depth as the vec4s `name_0` to `name_3`. */
function loadDepths(name: string, operand: MatmulOperand, ragged: boolean): string {
  const starts = [0, 1, 2, 3].map((i) => `${name}_at${i}`);
  return each(LANES_DEPTH, (d) => {
    const value = loadAcross(operand, starts, `d${d}`);
    return `let ${name}_${d} = ${ragged ? zeroPastK(value, `k0 + ${d}u`) : value};`;
  });
}
