import { assertEquals } from "@std/assert";
import { type AttentionShape, EMPTY_LOG_SUM_EXP } from "../../packages/core/backend/ops.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import { queryRanges } from "../../packages/core/strategy/attention_positions.ts";
import { assertClose } from "../_support/compare.ts";
import { type AttentionCase, explicitAttention } from "../_support/explicit_attention.ts";
import { documentStarts } from "../_support/documents.ts";
import { Random } from "../_support/random.ts";
import { TestTensors } from "../_support/test_tensors.ts";

// Sums run in f64 on both sides and are rounded once to f32: a few units in the last place of numbers around 1.
const ROUNDING = { absolute: 1e-6, relative: 1e-6 };

interface Positions {
  readonly shape: Partial<AttentionShape>;
  readonly queryPositions: number[];
  readonly keyPositions: number[];
  /** Lengths of the documents of each sequence. */
  readonly documents?: number[][];
}

const cases: Record<string, Positions> = {
  "one head": { shape: {}, queryPositions: range(0, 9), keyPositions: range(0, 9) },
  "several tiles, ragged": {
    shape: { heads: 2, kvHeads: 2 },
    queryPositions: range(0, 131),
    keyPositions: range(0, 131),
  },
  "batch": { shape: { batch: 3, heads: 2, kvHeads: 2 }, queryPositions: range(0, 7), keyPositions: range(0, 7) },
  "grouped query": {
    shape: { heads: 6, kvHeads: 2, headDim: 5 },
    queryPositions: range(0, 40),
    keyPositions: range(0, 40),
  },
  "multi-query": { shape: { heads: 4, kvHeads: 1 }, queryPositions: range(0, 33), keyPositions: range(0, 33) },
  "head dim above the tile": { shape: { headDim: 96 }, queryPositions: range(0, 70), keyPositions: range(0, 70) },
  "zig-zag, own keys": {
    shape: { batch: 2, heads: 2, kvHeads: 1 },
    queryPositions: [...range(10, 20), ...range(60, 70)],
    keyPositions: [...range(10, 20), ...range(60, 70)],
  },
  "zig-zag, keys of another rank": {
    shape: { batch: 2, heads: 2, kvHeads: 1 },
    queryPositions: [...range(10, 20), ...range(60, 70)],
    keyPositions: [...range(20, 30), ...range(50, 60)],
  },
  "more keys than queries": { shape: {}, queryPositions: range(90, 95), keyPositions: range(0, 95) },
  "documents, layouts of their own": {
    shape: { batch: 2, heads: 4, kvHeads: 2 },
    queryPositions: range(0, 140),
    keyPositions: range(0, 140),
    documents: [[64, 33, 1, 42], [1, 2, 137]],
  },
  "documents, zig-zag, keys of another rank": {
    shape: { batch: 2, heads: 2, kvHeads: 1 },
    queryPositions: [...range(10, 20), ...range(60, 70)],
    keyPositions: [...range(20, 30), ...range(50, 60)],
    documents: [[15, 40, 10, 5], [70]],
  },
};

for (const [name, { shape, queryPositions, keyPositions, documents }] of Object.entries(cases)) {
  Deno.test(`reference attention equals an explicit softmax: ${name}`, async () => {
    const input = attentionCase(shape, queryPositions, keyPositions, documents);
    const { out, logSumExp } = await tiledAttention(input);
    const expected = explicitAttention(input);
    assertClose(out, expected.out, { ...ROUNDING, what: "out", rejectAllZero: true });
    assertClose(logSumExp, expected.logSumExp, { ...ROUNDING, what: "logSumExp", rejectAllZero: true });
  });
}

Deno.test("reference attention resumed over parts of the keys equals the whole", async () => {
  const input = attentionCase({ batch: 2, heads: 4, kvHeads: 2 }, range(0, 100), range(0, 100));
  const whole = await tiledAttention(input);
  for (const splits of [[0, 50, 100], [0, 1, 2, 99, 100], [0, 33, 66, 100]]) {
    // Rounding of the intermediate results to f32 comes on top, once per part.
    const parts = await tiledAttention(input, splits);
    assertClose(parts.out, whole.out, { absolute: 2e-6, relative: 2e-6, what: `out over ${splits}` });
    assertClose(parts.logSumExp, whole.logSumExp, { absolute: 2e-6, relative: 1e-6, what: `logSumExp over ${splits}` });
  }
});

Deno.test("reference attention resumed over the keys in any order of blocks equals the whole", async () => {
  const input = attentionCase({ heads: 2 }, range(0, 64), range(0, 64));
  const whole = await tiledAttention(input);
  const reversed = await tiledAttention(input, [0, 16, 32, 64], { reverse: true });
  assertClose(reversed.out, whole.out, { absolute: 2e-6, relative: 2e-6, what: "out" });
  assertClose(reversed.logSumExp, whole.logSumExp, { absolute: 2e-6, relative: 1e-6, what: "logSumExp" });
});

Deno.test("reference attention gives zeros and an empty log-sum-exp to queries without keys", async () => {
  const input = attentionCase({}, [0, 1, 5, 6], [5, 6]);
  const { out, logSumExp } = await tiledAttention(input);
  const headDim = input.shape.headDim;
  assertEquals([...out.subarray(0, 2 * headDim)], Array(2 * headDim).fill(0));
  assertEquals([...logSumExp.subarray(0, 2)], Array(2).fill(Math.fround(EMPTY_LOG_SUM_EXP)));
  assertEquals([...out.subarray(2 * headDim, 3 * headDim)], [...input.v.subarray(0, headDim)]);
});

Deno.test("reference attention without any key, resumed, leaves the result as it is", async () => {
  const backend = createReferenceBackend({ poison: true });
  using t = new TestTensors(backend);
  const [q, kv] = [t.zeros([2, 4]), t.zeros([1, 4])];
  const [out, logSumExp] = [t.from(range(1, 9), [2, 4]), t.from([3, EMPTY_LOG_SUM_EXP], [2, 1])];
  const inputs = { q, k: kv, v: kv, queryPositions: t.ids(0, 1), keyPositions: t.ids(2) };
  backend.ops.attention(inputs, out, logSumExp, attentionShape({ headDim: 4 }), { resume: true });
  assertEquals([...await backend.read(out)], range(1, 9));
  assertEquals([...await backend.read(logSumExp)], [3, Math.fround(EMPTY_LOG_SUM_EXP)]);
});

Deno.test("reference attention stays finite with scores in the hundreds", async () => {
  const input = attentionCase({ scale: 40 }, range(0, 80), range(0, 80));
  const { out, logSumExp } = await tiledAttention(input);
  const expected = explicitAttention(input);
  // One unit in the last place of a score of 500 is 3e-5; both sides hold scores in f64, only results are rounded.
  assertClose(out, expected.out, { ...ROUNDING, what: "out", rejectAllZero: true });
  assertClose(logSumExp, expected.logSumExp, { ...ROUNDING, what: "logSumExp" });
});

Deno.test("reference attention is not disturbed by huge scores of keys that a query does not see", async () => {
  const input = attentionCase({ headDim: 4 }, range(0, 6), range(0, 6));
  // Far above the range of exp: were they counted in the highest score, the weights of seen keys would vanish.
  input.k.set(input.q.subarray(0, 4).map((value) => value * 1e4), 5 * 4);
  const { out, logSumExp } = await tiledAttention(input);
  const expected = explicitAttention(input);
  assertClose(out, expected.out, { ...ROUNDING, what: "out", rejectAllZero: true });
  assertClose(logSumExp, expected.logSumExp, { ...ROUNDING, what: "logSumExp" });
});

Deno.test("reference attention counts every head's own delta", async () => {
  const backend = createReferenceBackend({ poison: true });
  using t = new TestTensors(backend);
  const [out, dOut, delta] = [
    t.from([1, 2, 3, 4, 5, 6, 7, 8], [2, 4]),
    t.from([1, 1, 2, 2, 3, 3, 0, 1], [2, 4]),
    t.empty([2, 2]),
  ];
  backend.ops.attentionDelta(out, dOut, delta, 2);
  assertEquals([...await backend.read(delta)], [3, 14, 33, 8]);
});

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i);
}

function attentionShape(shape: Partial<AttentionShape>): AttentionShape {
  const headDim = shape.headDim ?? 8;
  return { batch: 1, heads: 1, kvHeads: shape.heads ?? 1, headDim, scale: 1 / Math.sqrt(headDim), ...shape };
}

function attentionCase(
  given: Partial<AttentionShape>,
  queryPositions: number[],
  keyPositions: number[],
  documents?: number[][],
): AttentionCase {
  const shape = attentionShape(given);
  const { batch, heads, kvHeads, headDim } = shape;
  const random = new Random(1);
  return {
    q: random.normals(batch * queryPositions.length * heads * headDim),
    k: random.normals(batch * keyPositions.length * kvHeads * headDim),
    v: random.normals(batch * keyPositions.length * kvHeads * headDim),
    queryPositions: documents
      ? queryRanges(Uint32Array.from(queryPositions), batch, documentStarts(documents))
      : Uint32Array.from(queryPositions),
    ranged: documents !== undefined,
    keyPositions: Uint32Array.from(keyPositions),
    shape,
  };
}

/** The backend's attention, over all keys at once or, resumed, over the keys between `splits` one part after another. */
async function tiledAttention(
  { q, k, v, queryPositions, keyPositions, ranged, shape }: AttentionCase,
  splits = [0, keyPositions.length],
  options: { reverse?: boolean } = {},
): Promise<{ out: Float32Array; logSumExp: Float32Array }> {
  const backend = createReferenceBackend({ poison: true });
  using t = new TestTensors(backend);
  const { batch, heads, kvHeads, headDim } = shape;
  const queryRows = q.length / (heads * headDim);
  const width = kvHeads * headDim;
  const qTensor = t.from(q, [queryRows, heads * headDim]);
  const [out, logSumExp] = [t.empty(qTensor.shape), t.empty([queryRows, heads])];
  const parts = splits.slice(1).map((end, i) => [splits[i], end]);
  if (options.reverse) parts.reverse();
  parts.forEach(([start, end], i) => {
    const part = (x: Float32Array) => {
      const rows = range(0, batch).map((b) => {
        const first = b * keyPositions.length;
        return [...x.subarray((first + start) * width, (first + end) * width)];
      });
      return t.from(rows.flat(), [batch * (end - start), width]);
    };
    const inputs = {
      q: qTensor,
      k: part(k),
      v: part(v),
      queryPositions: t.from(queryPositions, ranged ? [queryRows, 2] : [queryPositions.length]),
      keyPositions: t.from(keyPositions.slice(start, end), [end - start]),
    };
    backend.ops.attention(inputs, out, logSumExp, shape, { resume: i > 0 });
  });
  const [outValues, logSumExpValues] = await backend.readAll([out, logSumExp]);
  return { out: outValues, logSumExp: logSumExpValues };
}
