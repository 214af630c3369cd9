import { assertEquals, AssertionError, assertRejects } from "@std/assert";
import { tensorFrom } from "../../packages/core/backend/backend.ts";
import { type AttentionVariant, lanes, tiles } from "../../packages/core/backend/webgpu/kernels/attention_variant.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference, PLACEMENTS } from "../_support/op_case.ts";
import { Random } from "../_support/random.ts";
import {
  type AttentionCase,
  forcedOps,
  inputsOf,
  type Name,
  positions,
  results,
  runAttention,
  runAttentionInParts,
  shapeOf,
  TOLERANCE,
  zigZag,
} from "./_attention.ts";

/** Tiles small enough that a software driver compiles them in seconds. */
const SMALL_TILES = tiles(16, 32, 4, 4);

const CASES: Readonly<Record<string, AttentionCase>> = {
  "one query, one key": { batch: 1, heads: 1, kvHeads: 1, headDim: 10, queries: [5], keys: [5] },
  "more keys than queries, one kv head": {
    batch: 1,
    heads: 2,
    kvHeads: 1,
    headDim: 8,
    queries: positions(3, 62),
    keys: positions(65),
  },
  "grouped heads, 3 sequences": {
    batch: 3,
    heads: 4,
    kvHeads: 2,
    headDim: 10,
    queries: positions(65),
    keys: positions(65),
  },
  "zig-zag halves of two ranks": {
    batch: 2,
    heads: 2,
    kvHeads: 2,
    headDim: 8,
    queries: zigZag(0, 2, 21),
    keys: zigZag(1, 2, 17),
  },
  "queries that see no key": {
    batch: 2,
    heads: 2,
    kvHeads: 1,
    headDim: 8,
    queries: positions(40),
    keys: positions(33, 11),
  },
};

for (const [name, attentionCase] of Object.entries(CASES)) {
  for (const { label, options } of GPU_VARIANTS) {
    gpuTest(`attention of ${name}${label}`, async (backend) => {
      const shape = shapeOf(attentionCase);
      await assertOpMatchesReference(backend, {
        inputs: inputsOf(attentionCase),
        run: (ops, tensors) => runAttention(ops, tensors, shape),
        results: results(),
      });
    }, options);
  }
}

// 64 and 128 are those of models; 6 and 36 leave pieces that are not full, or lanes without a piece.
for (const headDim of [6, 16, 36, 64, 128]) {
  const attentionCase = { batch: 1, heads: 2, kvHeads: 1, headDim, queries: positions(37), keys: positions(37) };
  const shape = shapeOf(attentionCase);
  for (const variant of headDim === 36 || headDim === 128 ? [undefined, SMALL_TILES] : [undefined]) {
    gpuTest(`attention with head dim ${headDim}, ${variant ? "tiles" : "lanes"}`, async (backend) => {
      const forced = forcedOps(backend, { variant });
      await assertOpMatchesReference(backend, {
        inputs: inputsOf(attentionCase),
        run: (ops, tensors) => runAttention(ops === backend.ops ? forced : ops, tensors, shape),
        results: results(),
      }, ["own"]);
    }, { kernelsFor: "software" });
  }
}

// What the table may come to hold after measuring.
const VARIANTS: Readonly<Record<string, AttentionVariant>> = {
  "tall tiles": tiles(32, 16, 4, 4),
  "wide tiles": tiles(16, 48, 4, 4),
  "8 rows per invocation": tiles(32, 32, 8, 8),
  "lanes that load for themselves": lanes("attention_dkv", 12, 0),
};

for (const [name, variant] of Object.entries(VARIANTS)) {
  gpuTest(`attention by ${name}`, async (backend) => {
    const attentionCase = { batch: 2, heads: 2, kvHeads: 1, headDim: 12, queries: positions(50), keys: positions(50) };
    const shape = shapeOf(attentionCase);
    const forced = forcedOps(backend, { variant });
    await assertOpMatchesReference(backend, {
      inputs: inputsOf(attentionCase),
      run: (ops, tensors) => runAttention(ops === backend.ops ? forced : ops, tensors, shape),
      results: results(),
    }, ["own"]);
  });
}

for (const kernelsFor of ["software", "gpu"] as const) {
  gpuTest(`attention over random parts of the keys equals the whole, kernels for ${kernelsFor}`, async (backend) => {
    const attentionCase = { batch: 1, heads: 2, kvHeads: 1, headDim: 8, queries: positions(60), keys: positions(60) };
    const shape = shapeOf(attentionCase);
    for (const seed of [1, 2, 3]) {
      const random = new Random(seed);
      const bounds = [0, 60, ...Array.from({ length: 4 }, () => random.integer(61))].sort((a, b) => a - b);
      const parts = bounds.slice(1).map((end, i) => [bounds[i], end] as const).filter(([start, end]) => start < end);
      const order = parts.map((part) => ({ part, rank: random.uniform() })).sort((a, b) => a.rank - b.rank);
      await assertOpMatchesReference(backend, {
        inputs: inputsOf(attentionCase),
        run: (ops, tensors) =>
          ops === backend.ops
            ? runAttentionInParts(ops, tensors, shape, order.map(({ part }) => part))
            : runAttention(ops, tensors, shape),
        results: results(),
      }, seed === 1 ? PLACEMENTS : ["own"]);
    }
  }, { kernelsFor });

  // Scores reach ±80, where a rounding is 80 · 2⁻²⁴, and sums of E products make some of them: weights are off by 3e-5.
  gpuTest(`attention of scores as large as 80, kernels for ${kernelsFor}`, async (backend) => {
    const queries = positions(50);
    const attentionCase = { batch: 1, heads: 2, kvHeads: 1, headDim: 8, queries, keys: queries, std: 5.2 };
    const shape = shapeOf(attentionCase);
    const tolerance = { absolute: 2e-4, relative: 1e-4 };
    await assertOpMatchesReference(backend, {
      inputs: inputsOf(attentionCase),
      run: (ops, tensors) => runAttention(ops, tensors, shape),
      results: results(tolerance),
    }, ["own"]);
  }, { kernelsFor });

  gpuTest(`attention without keys, kernels for ${kernelsFor}`, async (backend) => {
    const attentionCase = { batch: 2, heads: 2, kvHeads: 1, headDim: 8, queries: positions(5), keys: [] };
    const shape = shapeOf(attentionCase);
    const { dOut: _dOut, delta: _delta, dq: _dq, dk: _dk, dv: _dv, ...inputs } = inputsOf(attentionCase);
    await assertOpMatchesReference(backend, {
      inputs,
      run: (ops, tensors) => ops.attention(tensors, tensors.out, tensors.logSumExp, shape),
      results: { out: {}, logSumExp: {} },
    }, ["own"]);
    await assertOpMatchesReference(backend, {
      inputs,
      run: (ops, tensors) => ops.attention(tensors, tensors.out, tensors.logSumExp, shape, { resume: true }),
      results: { out: TOLERANCE, logSumExp: TOLERANCE },
    }, ["own"]);
  }, { kernelsFor });

  gpuTest(`attention without queries leaves gradients alone, kernels for ${kernelsFor}`, async (backend) => {
    for (const keys of [positions(5), []]) {
      const attentionCase = { batch: 2, heads: 2, kvHeads: 1, headDim: 8, queries: [], keys };
      await assertOpMatchesReference(backend, {
        inputs: inputsOf(attentionCase),
        run: (ops, tensors) => runAttention(ops, tensors, shapeOf(attentionCase)),
        results: {},
      }, ["own"]);
    }
  }, { kernelsFor });

  gpuTest(`attention gives the same bits again, kernels for ${kernelsFor}`, async (backend) => {
    const attentionCase = CASES["grouped heads, 3 sequences"];
    const runs = [];
    for (let run = 0; run < 2; run++) {
      using scope = new Scope();
      const entries = Object.entries(inputsOf(attentionCase)).map(([name, { data, shape }]) =>
        [name, scope.own(tensorFrom(backend, data, shape, "scratch"))] as const
      );
      const tensors = Object.fromEntries(entries) as Record<Name, Tensor>;
      runAttention(backend.ops, tensors, shapeOf(attentionCase));
      runs.push(await backend.readAll([tensors.out, tensors.dq, tensors.dk, tensors.dv]));
    }
    assertEquals(runs[0], runs[1]);
  }, { kernelsFor });
}

gpuTest("a key too many or too few is told from rounding", async (backend) => {
  const attentionCase = { batch: 1, heads: 1, kvHeads: 1, headDim: 8, queries: positions(60), keys: positions(60) };
  const shape = shapeOf(attentionCase);
  const moved = { ...attentionCase, keys: positions(60, 1) };
  await assertRejects(
    () =>
      assertOpMatchesReference<Name | "moved">(backend, {
        inputs: { ...inputsOf(attentionCase), moved: inputsOf(moved).keyPositions },
        run: (ops, { moved, ...tensors }) =>
          runAttention(ops, ops === backend.ops ? { ...tensors, keyPositions: moved } : tensors, shape),
        results: results(),
      }, ["own"]),
    AssertionError,
    "out of tolerance",
  );
});
