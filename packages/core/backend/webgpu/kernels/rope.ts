/**
 * Rotary position embedding in place. Dims: T rows, S tokens of a sequence, E head dim.
 *
 * @module
 */

import type { Tensor } from "../../../tensor/tensor.ts";
import { type Dispatcher, linearGrid, type RowBlock } from "../dispatch.ts";
import { bindGroups, groupBlock, type GroupTensor, groupWidth, kernelName } from "./groups.ts";
import { forRowBlocks, reduceCode, rowMain, rowPlan, withPlan } from "./wgsl.ts";

/** A tensor [T, heads · E] that is rotated. */
export interface Rotated {
  readonly x: Tensor;
  readonly heads: number;
}

/** Launches `Ops.rope` of one tensor, or of two in one dispatch. */
export function rope(dispatcher: Dispatcher, rotated: readonly Rotated[], table: Tensor, inverse: boolean): void {
  const heads = rotated.map(({ heads }) => heads);
  forRowBlocks(dispatcher, [table], ([tableBlock], tokens) => {
    forRowBlocks(dispatcher, rotated.map(({ x }) => x), (blocks, rows) => {
      const rotatedBlocks = blocks.map((x, i) => ({ x, heads: heads[i] }));
      run(dispatcher, rotatedBlocks, tableBlock, { rows, tokens, ofTable: table.shape[0], inverse });
    });
  });
}

/** What a dispatch covers. */
interface Cover {
  /** Rows of the rotated tensors. */
  readonly rows: RowBlock;
  /** Rows of the table that are bound. */
  readonly tokens: RowBlock;
  /** Rows of the whole table. */
  readonly ofTable: number;
  readonly inverse: boolean;
}

function run(dispatcher: Dispatcher, rotated: readonly Rotated[], table: Tensor, cover: Cover): void {
  const half = table.shape[1] / 2;
  const width = groupWidth([...rotated.map(({ x }) => x), table], [half]);
  const pairs = rotated.map(({ heads }) => heads * half / width);
  const plan = rowPlan(dispatcher, pairs.reduce((sum, each) => sum + each));
  const count = cover.rows.end - cover.rows.start;
  const bound = bindGroups(
    width,
    [
      ...rotated.map(({ x }, i) => ({ name: `x${i}`, use: "update", tensor: x }) as const),
      { name: "table", use: "read", tensor: table },
    ],
    [],
    {
      ...Object.fromEntries(pairs.map((each, i) => [`pairs${i}`, each])),
      rows: count,
      half_head: half / width,
      tokens: cover.ofTable,
      first_row: cover.rows.start,
      first_token: cover.tokens.start,
      end_token: cover.tokens.end,
      sign: { f32: cover.inverse ? -1 : 1 },
    },
  );
  const turn = (i: number, named: Readonly<Record<string, GroupTensor>>) => `
  for (var p = lane; p < params.pairs${i}; p += LANES) {
    let within = p % params.half_head;
    let at = row * 2u * params.pairs${i} + (p / params.half_head) * 2u * params.half_head + within;
    ${
    groupBlock(
      width,
      [
        [named[`x${i}`], "at", "low"],
        [named[`x${i}`], "at + params.half_head", "high"],
        [named.table, "turn + within", "cosine"],
        [named.table, "turn + params.half_head + within", "sine"],
      ],
      "let a = low; low = a * cosine - high * sine * params.sign; high = high * cosine + a * sine * params.sign;",
    )
  }
  }`;
  const write = () => {
    const named = bound.named();
    return `${bound.code()}${reduceCode(plan)}${
      rowMain(`
  let token = (params.first_row + row) % params.tokens;
  if (!live || token < params.first_token || token >= params.end_token) { return; }
  let turn = (token - params.first_token) * 2u * params.half_head;
  ${rotated.map((_, i) => turn(i, named)).join("")}
`)
    }`;
  };
  dispatcher.run({
    kernel: kernelName(cover.inverse ? "rope inverse" : "rope", rotated.map(({ x }) => x)),
    code: { key: "rope", form: withPlan(bound.form, plan), write },
    tensors: bound.tensors,
    params: bound.params,
    workgroups: linearGrid(Math.ceil(count / plan.rows)),
  });
}
