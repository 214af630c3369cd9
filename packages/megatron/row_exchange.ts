/**
 * Rows that ranks give one another around projections: the all-gather and the reduce-scatter of Megatron's sequence
 * parallelism (Korthikanti et al. 2022, section 4.2.2). Legend: C own rows, N rows of all ranks, D model width.
 *
 * @module
 */

import {
  addFloats,
  type Backend,
  bytesOf,
  type ExchangeClock,
  floatsOf,
  type GatheredRows,
  type ProcessGroup,
  type Region,
  release,
  Scope,
  type Tensor,
  tensorFrom,
  writable,
} from "@mst/core";

/** What exchanges are made of. */
export interface RowExchangeOptions {
  /** Device of this rank. */
  readonly backend: Backend;
  /** At least two ranks. */
  readonly group: ProcessGroup;
  /** Measures for how long ranks exchange. */
  readonly clock: ExchangeClock;
}

/** The exchanges, each the backward of the other; every pair of ranks exchanges directly. */
export interface RowExchange extends Pick<Region, "gather" | "scatterSum"> {
  /** What every rank has for this one, in rank order, from what this rank has for each; this rank's own is passed on. */
  exchange(parts: readonly Float32Array[]): Promise<Float32Array[]>;
}

/** Exchanges over the ranks of a group. */
export function createRowExchange({ backend, group, clock }: RowExchangeOptions): RowExchange {
  const { ops } = backend;
  const { rank, memory } = group;

  async function exchange(parts: readonly Float32Array[]): Promise<Float32Array[]> {
    const messages = parts.map((part, to) => to === rank ? new Uint8Array(0) : bytesOf(part));
    const received = await clock.exchange(() => group.allToAll(messages));
    return received.map((bytes, from) => from === rank ? parts[rank] : floatsOf(bytes));
  }

  async function gather(x: Tensor): Promise<GatheredRows> {
    using scope = new Scope();
    const [own, dim] = x.shape;
    const values = memory.floats(x.size);
    await backend.readAll([x], [values]);
    const parts = await exchange(Array.from({ length: group.size }, () => values));
    memory.give(values);
    const counts = parts.map((part, from) => from === rank ? own : part.length / dim);
    const all = scope.own(backend.empty([counts.reduce((sum, count) => sum + count, 0), dim], "communication"));
    eachRank(all, counts, (rows, from) => {
      if (from === rank) return ops.copy(x, rows);
      backend.write(rows, parts[from]);
      release(parts[from]);
    });
    return { all: scope.release(all), counts };
  }

  async function scatterSum(
    out: Tensor,
    counts: readonly number[],
    produce: (target: Tensor, accumulate: boolean) => void,
    { accumulate = false }: { readonly accumulate?: boolean } = {},
  ): Promise<void> {
    const [own, dim] = out.shape;
    const read = await readTerms();
    const outgoing = read.values();
    const received = await exchange(counts.map((_, to) => to === rank ? new Float32Array(0) : outgoing.next().value!));
    read.forEach((values) => memory.give(values));
    const [first, ...others] = received.filter((_, from) => from !== rank);
    const sum = others.length > 0 ? writable(first) : first;
    for (const other of others) {
      addFloats(sum, other, sum);
      release(other);
    }
    using terms = tensorFrom(backend, sum, [own, dim], "communication");
    release(sum);
    ops.add(terms, out);

    /** Adds the own rows of this rank's term, and reads those of the others. */
    async function readTerms(): Promise<Float32Array[]> {
      using scope = new Scope();
      const term = scope.own(backend.empty([counts.reduce((sum, count) => sum + count, 0), dim], "communication"));
      produce(term, false);
      const others: Tensor[] = [];
      eachRank(term, counts, (rows, to) => {
        if (to !== rank) others.push(scope.own(rows.share()));
        else if (accumulate) ops.add(rows, out);
        else ops.copy(rows, out);
      });
      const into = others.map(({ size }) => memory.floats(size));
      await backend.readAll(others, into);
      return into;
    }
  }

  return { gather, scatterSum, exchange };
}

/** Calls `use` with the rows of each rank. */
function eachRank(all: Tensor, counts: readonly number[], use: (rows: Tensor, rank: number) => void): void {
  let start = 0;
  for (const [rank, count] of counts.entries()) {
    using rows = all.rows(start, start + count);
    use(rows, rank);
    start += count;
  }
}
