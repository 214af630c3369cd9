import { assert, assertEquals } from "@std/assert";
import {
  chooseForwardVariant,
  forwardMatrices,
  type ForwardVariant,
} from "../../packages/core/backend/webgpu/kernels/attention_forward_variant.ts";
import type { AttentionShape } from "../../packages/core/backend/ops.ts";
import type { WebGpuBackend } from "../../packages/core/backend/webgpu/webgpu_backend.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference, type OpCase } from "../_support/op_case.ts";
import {
  type AttentionCase,
  type AttentionOps,
  forcedOps,
  inputsOf,
  MATRIX_CASES,
  MATRIX_DEVICE,
  positions,
  shapeOf,
  TOLERANCE,
} from "./_attention.ts";

/** One matrix of queries and one of scores; and two teams, with tiles of two steps. */
const ONE_TEAM = forwardMatrices(16, 1, 16, 16, "emulated");
const TEAMS = forwardMatrices(32, 2, 32, 16, "emulated");

/**
 * Weights are rounded to f16, by 2⁻¹¹ of each at most, and so is what is stored; values are below 5. The sum of weights,
 * and the log-sum-exp by it, is f32.
 */
const RESULTS = { out: { absolute: 3e-3, relative: 2 ** -10, rejectAllZero: true }, logSumExp: TOLERANCE };

const NAMES = ["q", "k", "v", "queryPositions", "keyPositions", "out", "logSumExp"] as const;
type Names = typeof NAMES[number];

function forwardInputs(attentionCase: AttentionCase): Pick<ReturnType<typeof inputsOf>, Names> {
  const inputs = inputsOf(attentionCase);
  for (const name of ["q", "k", "v", "out"] as const) inputs[name] = { ...inputs[name], dtype: "f16" };
  const { q, k, v, queryPositions, keyPositions, out, logSumExp } = inputs;
  return { q, k, v, queryPositions, keyPositions, out, logSumExp };
}

function runForward(ops: AttentionOps, tensors: Record<Names, Tensor>, shape: AttentionShape): void {
  ops.attention(tensors, tensors.out, tensors.logSumExp, shape);
}

async function assertForward(
  backend: WebGpuBackend,
  attentionCase: AttentionCase,
  forwardVariant: ForwardVariant,
  results: OpCase<Names>["results"] = RESULTS,
): Promise<void> {
  const forced = forcedOps(backend, { forwardVariant });
  const shape = shapeOf(attentionCase);
  await assertOpMatchesReference(backend, {
    inputs: forwardInputs(attentionCase),
    run: (ops, tensors) => runForward(ops === backend.ops ? forced : ops, tensors, shape),
    results,
  }, ["own"]);
}

for (const [name, attentionCase] of Object.entries(MATRIX_CASES)) {
  gpuTest(`f16: attention by matrices of ${name}`, (backend) => assertForward(backend, attentionCase, ONE_TEAM));
}

// Scores reach ±80 in an order of their own, so that what weights are relative to moves in many tiles.
gpuTest("f16: attention by matrices of several teams, of scores as large as 80", async (backend) => {
  const queries = positions(101);
  const attentionCase = { batch: 1, heads: 2, kvHeads: 1, headDim: 16, queries, keys: queries, std: 4.4 };
  const logSumExp = { absolute: 2e-4, relative: 1e-4 };
  await assertForward(backend, attentionCase, TEAMS, { ...RESULTS, logSumExp });
});

gpuTest("f16: attention by matrices resumes from parts of the keys in any order", async (backend) => {
  const queries = positions(70);
  const attentionCase = { batch: 1, heads: 2, kvHeads: 1, headDim: 16, queries, keys: queries };
  const forced = forcedOps(backend, { forwardVariant: ONE_TEAM });
  const shape = shapeOf(attentionCase);
  await assertOpMatchesReference(backend, {
    inputs: forwardInputs(attentionCase),
    run: (ops, tensors) => {
      if (ops !== backend.ops) return runForward(ops, tensors, shape);
      using scope = new Scope();
      for (const [part, [start, end]] of [[40, 70], [0, 33], [33, 40]].entries()) {
        const [k, v, keyPositions] = [tensors.k, tensors.v, tensors.keyPositions].map((tensor) =>
          scope.own(tensor.rows(start, end))
        );
        const { out, logSumExp } = tensors;
        forced.attention({ ...tensors, k, v, keyPositions }, out, logSumExp, shape, { resume: part > 0 });
      }
    },
    // What is between parts is rounded, too.
    results: { ...RESULTS, out: { ...RESULTS.out, absolute: 8e-3 } },
  }, ["own"]);
});

Deno.test("attention takes matrices where the device has them and the head dim suits them", () => {
  const { features, limits } = MATRIX_DEVICE;
  for (const headDim of [64, 128]) assert(chooseForwardVariant(headDim, { features, limits }));
  assertEquals(chooseForwardVariant(72, { features, limits }), undefined);
  assertEquals(chooseForwardVariant(64, { features: { ...features, subgroupMatrix: false }, limits }), undefined);
  const small = { ...limits, maxWorkgroupMemoryBytes: 16_384 };
  assertEquals(chooseForwardVariant(64, { features, limits: small }), undefined);
});
