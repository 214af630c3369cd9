import { assertThrows } from "@std/assert";
import { zeros } from "../../packages/core/backend/backend.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import {
  type AttentionCase,
  inputsOf,
  positions,
  results,
  runAttention,
  runAttentionInParts,
  shapeOf,
  TOLERANCE,
} from "./_attention.ts";

/** One rounding to f16, which may fall on either side where f32 results differ in their last bits: 2⁻¹⁰. */
const HALF = { absolute: TOLERANCE.absolute! + 2 ** -20, relative: 2 ** -10 };

/** What mixed precision keeps as f16. */
const HALVES = ["q", "k", "v", "out", "dOut", "dq", "dk", "dv"] as const;

function halfInputs(attentionCase: AttentionCase): ReturnType<typeof inputsOf> {
  const inputs = inputsOf(attentionCase);
  for (const name of HALVES) inputs[name] = { ...inputs[name], dtype: "f16" };
  return inputs;
}

const CASES: Readonly<Record<string, AttentionCase>> = {
  "grouped heads": { batch: 2, heads: 4, kvHeads: 2, headDim: 8, queries: positions(37), keys: positions(37) },
  "rows of an odd number of pairs": {
    batch: 1,
    heads: 2,
    kvHeads: 1,
    headDim: 6,
    queries: positions(19, 3),
    keys: positions(21),
  },
};

for (const [name, attentionCase] of Object.entries(CASES)) {
  // Delta sums products of `out`, whose roundings move it, and with it the gradients of scores; what is added up in
  // parts is rounded after each. All of these are below 5, a rounding of which is 2⁻⁹.
  const moved = { absolute: 2 ** -8, relative: 2 ** -10 };
  const gradient = { ...moved, rejectAllZero: true };
  for (const { label, options } of GPU_VARIANTS) {
    gpuTest(`f16: attention of ${name}${label}`, async (backend) => {
      await assertOpMatchesReference(backend, {
        inputs: halfInputs(attentionCase),
        run: (ops, tensors) => runAttention(ops, tensors, shapeOf(attentionCase)),
        results: { out: HALF, logSumExp: TOLERANCE, delta: moved, dq: gradient, dk: gradient, dv: gradient },
      }, [attentionCase.headDim % 4 === 0 ? "own" : "shared"]);
    }, options);
  }
}

for (const { label, options } of GPU_VARIANTS) {
  gpuTest(`f16: attention that resumes${label}`, async (backend) => {
    const attentionCase = { batch: 1, heads: 2, kvHeads: 2, headDim: 8, queries: positions(30), keys: positions(30) };
    const tolerance = { absolute: 2 ** -8, relative: 2 ** -9, rejectAllZero: true };
    await assertOpMatchesReference(backend, {
      inputs: halfInputs(attentionCase),
      run: (ops, tensors) => runAttentionInParts(ops, tensors, shapeOf(attentionCase), [[17, 30], [0, 17]]),
      results: { ...results(tolerance), logSumExp: TOLERANCE },
    }, ["own"]);
  }, options);
}

gpuTest("f16: attention refuses an odd head dim", (backend) => {
  using scope = new Scope();
  const half = () => scope.own(zeros(backend, [2, 6], "scratch", "f16"));
  const [queryPositions, keyPositions] = [0, 1].map(() => scope.own(backend.empty([2], "scratch", "u32")));
  const logSumExp = scope.own(backend.empty([2, 2], "scratch"));
  const inputs = { q: half(), k: half(), v: half(), queryPositions, keyPositions };
  assertThrows(
    () => backend.ops.attention(inputs, half(), logSumExp, { batch: 1, heads: 2, kvHeads: 2, headDim: 3, scale: 1 }),
    RangeError,
    "the head dim of f16 must be even, not 3",
  );
});
