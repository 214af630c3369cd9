/**
 * The all-to-all between a part of the sequence with all heads and the whole sequence with a part of the heads.
 *
 * A part, what one rank has for another, is one run of elements: of each matrix, the rows of the one rank and the columns
 * of the other. Legend: B batch, S tokens of a sequence, S_r tokens of rank r.
 *
 * @module
 */

import {
  type Backend,
  bytesOf,
  type DType,
  type ExchangeClock,
  floatsOf,
  type HostMemory,
  type ProcessGroup,
  release,
  Scope,
  type Shape,
  type Tensor,
  type TokenPartition,
} from "@mst/core";
import { firstColumn, type HeadColumns, isFirstCopy, ownColumns } from "./head_layout.ts";

/** What exchanges are made of. */
export interface HeadExchangeOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** At least two ranks. */
  readonly group: ProcessGroup;
  /** Measures for how long ranks exchange. */
  readonly clock: ExchangeClock;
  /** Memory of the host that parts are read into. */
  readonly memory: HostMemory;
  /** Sequences in the batch. */
  readonly batch: number;
  /** Positions of every rank: one contiguous block each, in rank order. */
  readonly partition: TokenPartition;
}

/**
 * A pair of exchanges, each the backward of the other. Both take over their tensors, which are of one element type; the
 * caller owns the results.
 */
export interface HeadExchange {
  /** From the own tokens and all heads [B·S_local, all] to all tokens and the own heads [B·S, own]. */
  toHeads(tensors: readonly Tensor[], columns: readonly HeadColumns[]): Promise<Tensor[]>;
  /** From all tokens and the own heads [B·S, own] to the own tokens and all heads [B·S_local, all]; sums copies of heads. */
  toSequence(tensors: readonly Tensor[], columns: readonly HeadColumns[]): Promise<Tensor[]>;
}

/** Where the parts that arrive belong. */
interface Destination {
  /** Matrices in the parts. */
  readonly columns: readonly HeadColumns[];
  /** Shape of each matrix that they make up. */
  readonly shapes: readonly Shape[];
  /** Rows of the part of a rank. */
  readonly rows: (from: number) => number;
  /** Puts one matrix of a part in its place; called in rank order. */
  readonly place: (block: Tensor, from: number, out: Tensor, columns: HeadColumns) => void;
}

/** Exchanges of one micro-batch. */
export function createHeadExchange(
  { backend, group, clock, memory, batch, partition: { seqTokens, positions } }: HeadExchangeOptions,
): HeadExchange {
  const { ops } = backend;
  const { rank, size } = group;
  const ranks = Array.from({ length: size }, (_, r) => r);
  const localRows = rowsOf(rank);

  function rowsOf(owner: number): number {
    return batch * positions[owner].length;
  }

  /** Packs a part for every rank and gives the tensors back. */
  function pack(
    tensors: readonly Tensor[],
    columns: readonly HeadColumns[],
    rows: (to: number) => number,
    copy: (tensor: Tensor, to: number, block: Tensor, columns: HeadColumns) => void,
  ): Tensor[] {
    const parts = ranks.map((to) => {
      const part = backend.empty([rows(to) * ownColumns(columns)], "communication", tensors[0].dtype);
      eachBlock(part, rows(to), columns, (block, i) => copy(tensors[i], to, block, columns[i]));
      return part;
    });
    tensors.forEach((tensor) => tensor.free());
    return parts;
  }

  /**
   * Sends each rank its part, waiting for the device once, and puts together what arrives. The own part stays on the
   * device; of the others one at a time is on it.
   */
  async function exchange(parts: readonly Tensor[], { columns, shapes, rows, place }: Destination): Promise<Tensor[]> {
    using scope = new Scope();
    const ownPart = scope.own(parts[rank]);
    const others = parts.filter((part) => part !== ownPart);
    const words = others.map((part) => part.words()); // travel as they lie
    const values = words.map(({ size }) => memory.floats(size));
    const reading = backend.readAll(words, values);
    [...words, ...others].forEach((part) => part.free());
    await reading;
    const outgoing = values.values();
    const messages = parts.map((part) => part === ownPart ? new Uint8Array(0) : bytesOf(outgoing.next().value!));
    const received = await clock.exchange(() => group.allToAll(messages));
    values.forEach((array) => memory.give(array));

    const { dtype } = ownPart;
    const results = shapes.map((shape) => scope.own(backend.empty(shape, "activations", dtype)));
    for (const from of ranks) {
      using part = from === rank ? ownPart.share() : upload(received[from], rows(from) * ownColumns(columns), dtype);
      eachBlock(part, rows(from), columns, (block, i) => place(block, from, results[i], columns[i]));
    }
    return results.map((result) => scope.release(result));
  }

  function upload(bytes: Uint8Array<ArrayBuffer>, elements: number, dtype: DType): Tensor {
    const part = backend.empty([elements], "communication", dtype);
    using words = part.words();
    backend.write(words, floatsOf(bytes));
    release(bytes);
    return part;
  }

  /** Calls `use` for each sequence with the rows of one rank's tokens: in a matrix of all tokens, and in its own block. */
  function eachSequence(
    whole: Tensor,
    block: Tensor,
    owner: number,
    use: (rowsOfWhole: Tensor, rowsOfBlock: Tensor) => void,
  ): void {
    const [start] = positions[owner];
    const tokens = positions[owner].length;
    for (let b = 0; b < batch; b++) {
      using rowsOfWhole = whole.rows(b * seqTokens + start, b * seqTokens + start + tokens);
      using rowsOfBlock = block.rows(b * tokens, (b + 1) * tokens);
      use(rowsOfWhole, rowsOfBlock);
    }
  }

  return {
    async toHeads(tensors: readonly Tensor[], columns: readonly HeadColumns[]): Promise<Tensor[]> {
      const parts = pack(tensors, columns, () => localRows, (tensor, to, block, each) => {
        ops.copyColumns(tensor, firstColumn(each, to), block, 0, each.own);
      });
      return await exchange(parts, {
        columns,
        shapes: columns.map(({ own }) => [batch * seqTokens, own]),
        rows: rowsOf,
        place: (block, from, out) => eachSequence(out, block, from, (to, rows) => ops.copy(rows, to)),
      });
    },

    async toSequence(tensors: readonly Tensor[], columns: readonly HeadColumns[]): Promise<Tensor[]> {
      const parts = pack(tensors, columns, rowsOf, (tensor, to, block) => {
        eachSequence(tensor, block, to, (from, rows) => ops.copy(from, rows));
      });
      return await exchange(parts, {
        columns,
        shapes: columns.map(({ all }) => [localRows, all]),
        rows: () => localRows,
        place: (block, from, out, each) => {
          const accumulate = !isFirstCopy(each, from);
          ops.copyColumns(block, 0, out, firstColumn(each, from), each.own, { accumulate });
        },
      });
    },
  };
}

/** Calls `use` with each matrix of a part. */
function eachBlock(
  part: Tensor,
  rows: number,
  columns: readonly HeadColumns[],
  use: (block: Tensor, i: number) => void,
): void {
  let start = 0;
  columns.forEach(({ own }, i) => {
    using run = part.rows(start, start + rows * own);
    using block = run.reshape([rows, own]);
    use(block, i);
    start += rows * own;
  });
}
