import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  createLoopbackGroups,
  createModelStates,
  createReferenceBackend,
  ExchangeClock,
  type SequenceStrategy,
  tensorFrom,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { beginReduction, reduceInLots } from "../../packages/core/strategy/gradient_reduction.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { cutIntoLots } from "../../packages/core/strategy/lots.ts";
import { assertClose } from "../_support/compare.ts";

/** A reduction of what each rank has, in pieces of as many words. */
async function reduceAll(dtype: "f32" | "f16", pieceWords: number, sizes: readonly number[], ranks: number) {
  const sent = new Set<string>();
  const values = (rank: number, i: number) =>
    Float32Array.from({ length: sizes[i] }, (_, k) => Math.fround(Math.sin(rank + 3 * i + 7 * k)));
  const sums = await Promise.all(
    createLoopbackGroups(ranks).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const gradients = sizes.map((size, i) => tensorFrom(backend, values(group.rank, i), [size], "gradients"));
      const send = group.send.bind(group);
      group.send = (to, data, label) => {
        assert(data.length <= 4 * pieceWords);
        sent.add(`${group.rank} to ${to}: ${label}`);
        return send(to, data, label);
      };
      const clock = new ExchangeClock();
      const options = { backend, group, clock, dtype, pieceWords };
      const reduction = beginReduction(gradients, { ...options, label: "test" });
      await reduction.finish();
      reduction.free();
      const sums = await backend.readAll(gradients);
      gradients.forEach((gradient) => gradient.free());
      assertEquals(backend.ledger.liveBytes(), 0);
      assert(clock.takeMs() > 0);
      await group.close();
      return sums;
    }),
  );
  const expected = sizes.map((size, i) =>
    Float32Array.from(
      { length: size },
      (_, k) => Array.from({ length: ranks }, (_, rank) => values(rank, i)[k]).reduce((a, b) => a + b),
    )
  );
  return { sums, expected, messages: sent.size };
}

Deno.test("gradients of any size are summed in pieces of any length, each under a label of its own", async () => {
  const sizes = [10, 2, 8, 6];
  for (const ranks of [2, 3, 5]) {
    for (const dtype of ["f32", "f16"] as const) {
      for (const pieceWords of [1, 4, 1000]) {
        const { sums, expected, messages } = await reduceAll(dtype, pieceWords, sizes, ranks);
        for (const rank of sums) {
          assertEquals(rank, sums[0]);
          rank.forEach((values, i) =>
            // Terms and sums up to 5 are rounded to 11 bits where they travel as halves, to 24 otherwise.
            assertClose(values, expected[i], { absolute: dtype === "f16" ? 5e-3 : 1e-6, what: `gradient ${i}` })
          );
        }
        if (pieceWords === 1) {
          const words = sizes.reduce((sum, size) => sum + size, 0) / (dtype === "f16" ? 2 : 1);
          assertEquals(messages, 2 * (ranks - 1) * words);
        }
      }
    }
  }
  const { expected, sums } = await reduceAll("f32", 4, [3, 1, 7], 3); // of odd size, and of fewer elements than ranks
  sums[2].forEach((values, i) => assertClose(values, expected[i], { absolute: 1e-6, what: `gradient ${i}` }));
});

Deno.test("gradients of one group travel while the next ones are computed, and are used before those travel", async () => {
  const [group, other] = createLoopbackGroups(2);
  await using backend = createReferenceBackend({ poison: true });
  const log: string[] = [];
  const arrivals: (() => void)[] = [];
  const strategy: SequenceStrategy = {
    ...createRingStrategy({ backend, group }),
    beginReduction(gradients) {
      const name = gradients.map(({ size }) => size).join("+");
      log.push(`${name} leave`);
      const { promise, resolve } = Promise.withResolvers<void>();
      arrivals.push(resolve);
      return { finish: () => promise.then(() => void log.push(`${name} arrive`)), free: () => {} };
    },
  };
  const states = createModelStates(backend, strategy, { shard: "none", optimizerInBackward: true });
  const create = (size: number) =>
    states.create(`p${size}`, [size], { initialize: (target) => backend.ops.fill(target, 1) });
  const [head, block, embedding] = [create(2), create(4), create(6)];
  const groups = [[head, embedding], [block], [embedding]].map((members) => states.group(members)); // tied
  states.beginUpdate((names) => Promise.resolve(void log.push(`${[...names]} updated`)));
  const computing: (() => void)[] = [];
  const steps = (async () => {
    for (const [i, { withGradients }] of groups.entries()) {
      await withGradients(() => {
        log.push(`compute ${i}`);
        return new Promise<void>((resolve) => computing.push(resolve));
      });
    }
    await states.reduceGradients();
  })();
  const turn = () => new Promise((resolve) => setTimeout(resolve));
  for (
    const [act, i] of [[computing, 0], [computing, 1], [arrivals, 0], [arrivals, 1], [computing, 2], [arrivals, 2]]
  ) {
    await turn();
    (act as (() => void)[])[i as number]?.();
  }
  await turn();
  arrivals.at(-1)!();
  await steps;
  assertEquals(log, [
    ...["compute 0", "2 leave", "compute 1", "2 arrive", "p2 updated", "4 leave"],
    ...["compute 2", "4 arrive", "p4 updated", "6 leave", "6 arrive", "p6 updated"],
  ]);
  assertEquals(backend.ledger.live().gradients, 0);
  states.free();
  assertEquals(backend.ledger.liveBytes(), 0);
  await Promise.all([group.close(), other.close()]);
});

Deno.test("sums beyond the largest half travel as halves", async () => {
  for (const ranks of [2, 3]) {
    const sums = await Promise.all(
      createLoopbackGroups(ranks).map(async (group) => {
        await using backend = createReferenceBackend();
        const gradient = tensorFrom(backend, new Float32Array([1e5, -1e6, 2 ** -8, 0]), [4], "gradients");
        const reduction = beginReduction([gradient], {
          ...{ backend, group, clock: new ExchangeClock(), dtype: "f16", label: "large" },
        });
        await reduction.finish();
        const [sum] = await backend.readAll([gradient]);
        gradient.free();
        await group.close();
        return sum;
      }),
    );
    for (const [i, value] of [1e5, -1e6, 2 ** -8, 0].entries()) {
      // Halves have 11 bits.
      sums.forEach((sum) => assertClose(sum.subarray(i, i + 1), [ranks * value], { relative: 2e-3, what: `${value}` }));
    }
  }
});

const MI = 2 ** 20;

Deno.test("gradients are summed in lots of neighbours, large ones alone", () => {
  const lots = (sizes: number[]) => cutIntoLots(sizes).map(({ start, end }) => [start, end]);
  assertEquals(lots([]), []);
  assertEquals(lots([9 * MI, 1, 8 * MI, 4 * MI, 4 * MI, 1]), [[0, 1], [1, 2], [2, 3], [3, 5], [5, 6]]);
});

Deno.test("a lot is on its way while the next one starts, and an error leaves none behind", async () => {
  for (const failing of [undefined, 1, 2]) {
    const log: string[] = [];
    const gradients = [8, 9, 7].map((size) => ({ size: size * MI }) as Tensor);
    const reducing = reduceInLots(gradients, ([{ size }]) => {
      const name = `${size / MI}`;
      log.push(`begin ${name}`);
      return {
        finish: () => {
          if (log.filter((line) => line.startsWith("end")).length + 1 === failing) throw new Error("lost");
          return Promise.resolve(void log.push(`end ${name}`));
        },
        free: () => log.push(`free ${name}`),
      };
    });
    if (failing) await assertRejects(() => reducing, Error, "lost");
    else await reducing;
    const expected: Record<string, string[]> = {
      undefined: ["begin 8", "begin 9", "end 8", "begin 7", "end 9", "end 7"],
      1: ["begin 8", "begin 9", "free 8", "free 9"],
      2: ["begin 8", "begin 9", "end 8", "begin 7", "free 9", "free 7"],
    };
    assertEquals(log, expected[`${failing}`]);
  }
});
