/** Attention within documents that are packed into sequences. */

import { assert, assertEquals, AssertionError, assertRejects } from "@std/assert";
import { tensorFrom } from "../../packages/core/backend/backend.ts";
import { type AttentionVariant, lanes, tiles } from "../../packages/core/backend/webgpu/kernels/attention_variant.ts";
import type { WebGpuBackend } from "../../packages/core/backend/webgpu/webgpu_backend.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { assertClose } from "../_support/compare.ts";
import { randomLengths } from "../_support/documents.ts";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference, type Input, PLACEMENTS } from "../_support/op_case.ts";
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

const FAMILIES = ["software", "gpu"] as const;

// Workgroups own 32 or 64 rows and stream 1 to 64 at a time: boundaries lie on the edges of tiles, beside them, in the
// middle, and many in one tile.
const CASES: Readonly<Record<string, AttentionCase>> = {
  "documents of one token": {
    ...{ batch: 2, heads: 2, kvHeads: 1, headDim: 8, queries: positions(70), keys: positions(70) },
    documents: [Array(70).fill(1), [...Array(35).fill(1), 35]],
  },
  "boundaries on the edges of tiles": {
    ...{ batch: 1, heads: 2, kvHeads: 2, headDim: 8, queries: positions(200), keys: positions(200) },
    documents: [[64, 32, 32, 16, 8, 4, 4, 40]],
  },
  "boundaries beside the edges of tiles, layouts of their own in 3 sequences": {
    ...{ batch: 3, heads: 4, kvHeads: 2, headDim: 8, queries: positions(130), keys: positions(130) },
    documents: [[65, 65], [63, 2, 65], [1, 31, 33, 64, 1]],
  },
  "zig-zag halves of two ranks, so that some queries see no key of their document": {
    ...{ batch: 2, heads: 2, kvHeads: 1, headDim: 8, queries: zigZag(0, 2, 33), keys: zigZag(1, 2, 33) },
    documents: [[40, 50, 42], [132]],
  },
};

for (const [name, attentionCase] of Object.entries(CASES)) {
  for (const { label, options } of GPU_VARIANTS) {
    gpuTest(`attention within ${name}${label}`, async (backend) => {
      const shape = shapeOf(attentionCase);
      // A document of one token has no gradient of its query.
      await assertOpMatchesReference(backend, {
        inputs: inputsOf(attentionCase),
        run: (ops, tensors) => runAttention(ops, tensors, shape),
        results: results(),
      });
    }, options);
  }
}

const VARIANTS: Readonly<Record<string, AttentionVariant>> = {
  "wide tiles": tiles(16, 32, 4, 4),
  "lanes that load for themselves": lanes("attention_dkv", 8, 0),
};

for (const [name, variant] of Object.entries({ "what the device takes": undefined, ...VARIANTS })) {
  gpuTest(`attention within random documents by ${name}`, async (backend) => {
    const forced = forcedOps(backend, { variant });
    for (let seed = 1; seed <= 8; seed++) {
      const random = new Random(seed);
      const seqTokens = 40 + random.integer(60);
      const longest = 1 + random.integer(seed % 2 === 0 ? 12 : 60);
      const documents = [1, 2].map(() => randomLengths(seqTokens, longest, random));
      const tokens = positions(seqTokens);
      const attentionCase = { batch: 2, heads: 2, kvHeads: 1, headDim: 8, queries: tokens, keys: tokens, documents };
      await assertOpMatchesReference(backend, {
        inputs: inputsOf(attentionCase),
        run: (ops, tensors) => runAttention(ops === backend.ops ? forced : ops, tensors, shapeOf(attentionCase)),
        results: results(),
      }, ["own"]);
    }
  });
}

function tensorsOf(backend: WebGpuBackend, inputs: Record<Name, Input>, scope: Scope): Record<Name, Tensor> {
  const entries = Object.entries(inputs).map(([name, { data, shape }]) =>
    [name, scope.own(tensorFrom(backend, data, shape, "scratch"))] as const
  );
  return Object.fromEntries(entries) as Record<Name, Tensor>;
}

/** Results of a case whose inputs are given, on the device. */
async function resultsOf(
  backend: WebGpuBackend,
  inputs: Record<Name, Input>,
  attentionCase: AttentionCase,
): Promise<Record<"out" | "logSumExp" | "dq" | "dk" | "dv", Float32Array>> {
  using scope = new Scope();
  const tensors = tensorsOf(backend, inputs, scope);
  runAttention(backend.ops, tensors, shapeOf(attentionCase));
  const [out, logSumExp, dq, dk, dv] = await backend.readAll(
    [tensors.out, tensors.logSumExp, tensors.dq, tensors.dk, tensors.dv],
  ) as Float32Array[];
  return { out, logSumExp, dq, dk, dv };
}

for (const kernelsFor of FAMILIES) {
  gpuTest(
    `a document as long as the sequence is attention without documents, kernels for ${kernelsFor}`,
    async (backend) => {
      const tokens = positions(150);
      const attentionCase = { batch: 2, heads: 2, kvHeads: 1, headDim: 8, queries: tokens, keys: tokens };
      const packed = { ...attentionCase, documents: [[150], [150]] };
      const plain = await resultsOf(backend, inputsOf(attentionCase), attentionCase);
      const whole = await resultsOf(backend, inputsOf(packed), packed);
      if (backend.isSoftware) assertEquals(whole, plain, "to the bit");
      for (const [name, values] of Object.entries(whole)) {
        // A GPU's compiler may fuse other products and sums in each of the two kernels: some units in the last place.
        const expected = plain[name as keyof typeof plain];
        assertClose(values, expected, { absolute: 1e-6, relative: 1e-6, what: name, rejectAllZero: true });
      }
    },
    { kernelsFor },
  );

  gpuTest(`a document does not depend on its neighbours, kernels for ${kernelsFor}`, async (backend) => {
    const tokens = positions(100);
    const dims = { batch: 1, heads: 2, kvHeads: 1, headDim: 8, queries: tokens, keys: tokens };
    const attentionCase = { ...dims, documents: [[37, 30, 33]] };
    const inputs = inputsOf(attentionCase);
    const before = await resultsOf(backend, inputs, attentionCase);
    for (const name of ["q", "k", "v", "dOut"] as const) {
      const data = Float32Array.from(inputs[name].data);
      const width = data.length / 100;
      // Scores in the hundreds would be the highest of every row that saw them.
      for (let i = 0; i < data.length; i++) if (i < 37 * width || i >= 67 * width) data[i] = 30 * data[i] - 7;
      inputs[name] = { ...inputs[name], data };
    }
    const after = await resultsOf(backend, inputs, attentionCase);
    for (const [name, values] of Object.entries(after)) {
      const width = values.length / 100;
      const own = (all: Float32Array) => all.slice(37 * width, 67 * width);
      assertEquals(own(values), own(before[name as keyof typeof before]), `${name} of the document in the middle`);
      assert(values.some((value, i) => i < 37 * width && value !== before[name as keyof typeof before][i]));
    }
  }, { kernelsFor });

  gpuTest(`attention within documents over random parts of the keys, kernels for ${kernelsFor}`, async (backend) => {
    const tokens = positions(90);
    const shape = { batch: 1, heads: 2, kvHeads: 1, headDim: 8, queries: tokens, keys: tokens };
    for (const seed of [1, 2, 3]) {
      const random = new Random(seed);
      const attentionCase = { ...shape, documents: [randomLengths(90, 40, random)] };
      const bounds = [0, 90, ...Array.from({ length: 4 }, () => random.integer(91))].sort((a, b) => a - b);
      const parts = bounds.slice(1).map((end, i) => [bounds[i], end] as const).filter(([start, end]) => start < end);
      const order = parts.map((part) => ({ part, rank: random.uniform() })).sort((a, b) => a.rank - b.rank);
      await assertOpMatchesReference(backend, {
        inputs: inputsOf(attentionCase),
        run: (ops, tensors) =>
          ops === backend.ops
            ? runAttentionInParts(ops, tensors, shapeOf(attentionCase), order.map(({ part }) => part))
            : runAttention(ops, tensors, shapeOf(attentionCase)),
        results: results(),
      }, seed === 1 ? PLACEMENTS : ["own"]);
    }
  }, { kernelsFor });

  gpuTest(`documents on a driver that ends loops early, kernels for ${kernelsFor}`, async (backend) => {
    const limits = { ...backend.dispatcher.limits, maxLoopTurns: 700 };
    const forced = forcedOps(backend, { limits, isSoftware: kernelsFor === "software" });
    const attentionCase = CASES["boundaries on the edges of tiles"];
    await assertOpMatchesReference(backend, {
      inputs: inputsOf(attentionCase),
      run: (ops, tensors) => runAttention(ops === backend.ops ? forced : ops, tensors, shapeOf(attentionCase)),
      results: results(),
    }, ["own"]);
  });
}

gpuTest("documents on a device with 8 storage buffers per kernel", async (backend) => {
  const forced = forcedOps(backend, {
    variant: VARIANTS["wide tiles"],
    limits: { ...backend.dispatcher.limits, maxStorageBuffers: 8 },
    onRun: ({ kernel, tensors }) => assert(tensors.length <= 8, `${kernel} binds ${tensors.length} tensors`),
  });
  const attentionCase = CASES["boundaries on the edges of tiles"];
  await assertOpMatchesReference(backend, {
    inputs: inputsOf(attentionCase),
    run: (ops, tensors) => runAttention(ops === backend.ops ? forced : ops, tensors, shapeOf(attentionCase)),
    results: results(),
  }, ["own"]);
});

gpuTest("a boundary that is one token off is told from rounding", async (backend) => {
  const tokens = positions(60);
  const dims = { batch: 1, heads: 1, kvHeads: 1, headDim: 8, queries: tokens, keys: tokens };
  const attentionCase = { ...dims, documents: [[30, 30]] };
  const moved = { ...dims, documents: [[31, 29]] };
  await assertRejects(
    () =>
      assertOpMatchesReference<Name | "moved">(backend, {
        inputs: { ...inputsOf(attentionCase), moved: inputsOf(moved).queryPositions },
        run: (ops, { moved, ...tensors }) =>
          runAttention(
            ops,
            ops === backend.ops ? { ...tensors, queryPositions: moved } : tensors,
            shapeOf(attentionCase),
          ),
        results: { out: TOLERANCE, logSumExp: TOLERANCE, dq: TOLERANCE, dk: TOLERANCE, dv: TOLERANCE },
      }, ["own"]),
    AssertionError,
    "out of tolerance",
  );
});

gpuTest("keys of other documents cost nothing", async (backend) => {
  const tokens = positions(4096);
  const whole = { batch: 1, heads: 4, kvHeads: 4, headDim: 8, queries: tokens, keys: tokens };
  const packed = { ...whole, documents: [Array(32).fill(128)] };
  using scope = new Scope();
  const [wholeTensors, packedTensors] = [whole, packed].map((each) => tensorsOf(backend, inputsOf(each), scope));
  const fastest = { whole: Infinity, packed: Infinity };
  for (let turn = 0; turn < 3; turn++) {
    for (const [name, tensors] of [["whole", wholeTensors], ["packed", packedTensors]] as const) {
      await backend.takeBusyMs();
      const startMs = performance.now();
      runAttention(backend.ops, tensors, shapeOf(whole));
      const busyMs = await backend.takeBusyMs() ?? performance.now() - startMs;
      if (turn > 0) fastest[name] = Math.min(fastest[name], busyMs); // the first compiles
    }
  }
  const share = fastest.packed / fastest.whole;
  // A query sees 64 keys on average instead of 2048; what is left are loads and stores, and the searches.
  assert(share < 0.5, `32 documents take ${share.toFixed(2)} of the time of one`);
});
