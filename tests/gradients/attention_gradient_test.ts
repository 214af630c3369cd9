/** Finite-difference checks of the backward of attention, on the reference backend. */

import { assertEquals } from "@std/assert";
import type { AttentionShape } from "../../packages/core/backend/ops.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { queryRanges } from "../../packages/core/strategy/attention_positions.ts";
import { documentStarts } from "../_support/documents.ts";
import { checkGradients, dot, type NamedArrays } from "../_support/gradient_check.ts";
import { Random } from "../_support/random.ts";
import { TestTensors } from "../_support/test_tensors.ts";

interface Case {
  name: string;
  shape?: Partial<AttentionShape>;
  queryPositions: number[];
  keyPositions: number[];
  /** Lengths of the documents of each sequence. */
  documents?: number[][];
  /** First key of the second part, when the backward runs over the keys in two parts. */
  split?: number;
  /** Differentiate along this many random directions instead of every element. */
  directions?: number;
}

const cases: Case[] = [
  { name: "multi-head", shape: { heads: 2, kvHeads: 2 }, queryPositions: range(0, 6), keyPositions: range(0, 6) },
  {
    name: "grouped query in a batch",
    shape: { batch: 2, heads: 4, kvHeads: 2, headDim: 3 },
    queryPositions: range(0, 4),
    keyPositions: range(0, 4),
  },
  { name: "multi-query", shape: { heads: 3, kvHeads: 1 }, queryPositions: range(0, 5), keyPositions: range(0, 5) },
  { name: "queries without keys", queryPositions: [0, 1, 5, 8], keyPositions: [2, 3, 6] },
  {
    name: "zig-zag over the keys in two parts",
    shape: { batch: 2, heads: 2, kvHeads: 1 },
    queryPositions: [2, 3, 8, 9],
    keyPositions: range(0, 10),
    split: 4,
  },
  {
    name: "documents in a batch, keys in two parts",
    shape: { batch: 2, heads: 2, kvHeads: 1 },
    queryPositions: range(0, 9),
    keyPositions: range(0, 9),
    documents: [[4, 1, 4], [2, 7]],
    split: 5,
  },
  {
    name: "documents over several tiles",
    shape: { heads: 2, kvHeads: 1, headDim: 6 },
    queryPositions: range(0, 80),
    keyPositions: range(0, 80),
    documents: [[31, 2, 47]],
    directions: 12,
  },
  {
    name: "several tiles, ragged",
    shape: { heads: 2, kvHeads: 1, headDim: 6 },
    queryPositions: range(0, 70),
    keyPositions: range(0, 70),
    split: 65,
    directions: 12,
  },
];

for (const { name, shape: given, queryPositions, keyPositions, documents, split, directions } of cases) {
  Deno.test(`gradient of attention agrees with finite differences: ${name}`, async () => {
    const backend = createReferenceBackend({ poison: true });
    const shape = { batch: 1, heads: 1, kvHeads: 1, headDim: 4, scale: 0.6, ...given };
    const { batch, heads, kvHeads, headDim } = shape;
    const [queries, keys] = [queryPositions.length, keyPositions.length];
    const qShape = [batch * queries, heads * headDim];
    const kvShape = [batch * keys, kvHeads * headDim];
    const random = new Random(7);
    const draw = ([rows, columns]: number[]) => random.normals(rows * columns);
    const inputs = { q: draw(qShape), k: draw(kvShape), v: draw(kvShape) };
    const d = draw(qShape);

    const tensorsOf = ({ q, k, v }: NamedArrays, t: TestTensors) => ({
      q: t.from(q, qShape),
      k: t.from(k, kvShape),
      v: t.from(v, kvShape),
      queryPositions: documents
        ? t.from(queryRanges(Uint32Array.from(queryPositions), batch, documentStarts(documents)), [batch * queries, 2])
        : t.ids(...queryPositions),
      keyPositions: t.ids(...keyPositions),
    });
    const forward = (arrays: NamedArrays, t: TestTensors) => {
      const tensors = tensorsOf(arrays, t);
      const [out, logSumExp] = [t.empty(qShape), t.empty([batch * queries, heads])];
      backend.ops.attention(tensors, out, logSumExp, shape);
      return { tensors, out, logSumExp };
    };

    {
      using t = new TestTensors(backend);
      const { tensors, out, logSumExp } = forward(inputs, t);
      const [dOut, delta, dq] = [t.from(d, qShape), t.empty(logSumExp.shape), t.zeros(qShape)];
      backend.ops.attentionDelta(out, dOut, delta, heads);
      const dk = new Float32Array(inputs.k.length);
      const dv = new Float32Array(inputs.v.length);
      for (const [start, end] of split === undefined ? [[0, keys]] : [[0, split], [split, keys]]) {
        const [k, v] = [partOf(inputs.k, start, end), partOf(inputs.v, start, end)].map((part) =>
          t.from(part, [batch * (end - start), kvHeads * headDim])
        );
        const part = { ...tensors, k, v, keyPositions: t.ids(...keyPositions.slice(start, end)) };
        const gradients = { dq, dk: t.zeros(k.shape), dv: t.zeros(v.shape) };
        backend.ops.attentionBackward(part, dOut, logSumExp, delta, gradients, shape);
        await putPart(dk, gradients.dk, start, end);
        await putPart(dv, gradients.dv, start, end);
      }
      await checkGradients({
        what: name,
        inputs,
        gradients: { q: await backend.read(dq), k: dk, v: dv },
        directions,
        loss: async (arrays) => {
          using t = new TestTensors(backend);
          return dot(await backend.read(forward(arrays, t).out), d);
        },
      });
    }
    assertEquals(backend.ledger.liveBytes(), 0);

    /** Rows `start` to `end` of every sequence. */
    function partOf(values: Float32Array, start: number, end: number): number[] {
      const width = kvHeads * headDim;
      return range(0, batch).flatMap((b) => [...values.subarray((b * keys + start) * width, (b * keys + end) * width)]);
    }

    async function putPart(target: Float32Array, part: Tensor, start: number, end: number): Promise<void> {
      const width = kvHeads * headDim;
      const size = (end - start) * width;
      const values = await backend.read(part);
      for (let b = 0; b < batch; b++) {
        target.set(values.subarray(b * size, (b + 1) * size), (b * keys + start) * width);
      }
    }
  });
}

Deno.test("the backward of attention adds to the gradients that are there", async () => {
  const backend = createReferenceBackend({ poison: true });
  using t = new TestTensors(backend);
  const random = new Random(8);
  const [q, k, v, dOut] = range(0, 4).map(() => t.from(random.normals(12), [3, 4]));
  const positions = t.ids(0, 1, 2);
  const inputs = { q, k, v, queryPositions: positions, keyPositions: positions };
  const shape = { batch: 1, heads: 2, kvHeads: 2, headDim: 2, scale: 0.7 };
  const [out, logSumExp, delta] = [t.empty([3, 4]), t.empty([3, 2]), t.empty([3, 2])];
  backend.ops.attention(inputs, out, logSumExp, shape);
  backend.ops.attentionDelta(out, dOut, delta, 2);
  const gradients = { dq: t.zeros([3, 4]), dk: t.zeros([3, 4]), dv: t.zeros([3, 4]) };
  const { dq, dk, dv } = gradients;
  backend.ops.attentionBackward(inputs, dOut, logSumExp, delta, gradients, shape);
  const once = await backend.readAll([dq, dk, dv]);
  backend.ops.attentionBackward(inputs, dOut, logSumExp, delta, gradients, shape);
  const twice = await backend.readAll([dq, dk, dv]);
  assertEquals(twice, once.map((values) => values.map((value) => 2 * value)), "doubling is exact");
});

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i);
}
