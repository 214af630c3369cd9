import { assertEquals, assertThrows } from "@std/assert";
import type { AttentionBackwardOptions } from "../../packages/core/backend/webgpu/kernels/attention_backward.ts";
import { matrixKeyGradient } from "../../packages/core/backend/webgpu/kernels/attention_matrix_backward.ts";
import { chooseMatrixVariant, matrices } from "../../packages/core/backend/webgpu/kernels/attention_matrix_variant.ts";
import type { WebGpuBackend } from "../../packages/core/backend/webgpu/webgpu_backend.ts";
import { gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import {
  type AttentionCase,
  forcedOps,
  halfInputsOf,
  MATRIX_CASES,
  MATRIX_DEVICE,
  positions,
  results,
  runAttention,
  shapeOf,
} from "./_attention.ts";

/** Matrices one by one, in two steps a tile. */
const SMALL = matrices(16, 2, 32, 16, { unit: "emulated" });
/** Matrices one below the other, of teams whose own rows do not fit the tiles at once. */
const TALL = matrices(32, 2, 16, 16, { unit: "emulated" });

/**
 * Weights and gradients of scores are rounded to f16, by 2^-12 of each; they are below 1 and some units, and their
 * products with rows of units add up over some dozen keys. Results are rounded to f16, too: 2^-11 of each. A different
 * rounding of out moves delta by as much.
 */
const RESULTS = results({ absolute: 1e-2, relative: 2e-3 });

async function assertBackward(
  backend: WebGpuBackend,
  attentionCase: AttentionCase,
  backward: AttentionBackwardOptions,
): Promise<void> {
  const forced = forcedOps(backend, { backward });
  const shape = shapeOf(attentionCase);
  await assertOpMatchesReference(backend, {
    inputs: halfInputsOf(attentionCase),
    run: (ops, tensors) => runAttention(ops === backend.ops ? forced : ops, tensors, shape),
    results: RESULTS,
  }, ["own"]);
}

for (const [name, attentionCase] of Object.entries(MATRIX_CASES)) {
  gpuTest(`attention backward by matrices of ${name}`, async (backend) => {
    await assertBackward(backend, attentionCase, { queryVariant: SMALL, keyVariant: SMALL });
  });
}

gpuTest("gradient of queries by several matrices a team", async (backend) => {
  const attentionCase = { batch: 1, heads: 2, kvHeads: 1, headDim: 32, queries: positions(75), keys: positions(75) };
  await assertBackward(backend, attentionCase, { queryVariant: TALL });
});

Deno.test("attention backward refuses matrices that rows are not shared out evenly by", () => {
  for (const variant of [matrices(16, 2, 16, 16), matrices(16, 1, 64, 16), matrices(48, 2, 32, 16)]) {
    assertThrows(() => matrixKeyGradient(variant, 16, { ranged: false }), RangeError, "shared out evenly");
  }
});

Deno.test("attention backward takes matrices where the device has them and the head dim suits them", () => {
  const { features, limits } = MATRIX_DEVICE;
  const none = { ...features, subgroupMatrix: false };
  for (const kernel of ["attention_dq", "attention_dkv"] as const) {
    for (const headDim of [64, 128]) {
      for (const bufferView of [false, true]) {
        const variant = chooseMatrixVariant(kernel, headDim, { features: { ...features, bufferView }, limits });
        assertEquals(variant?.views, bufferView);
      }
    }
    assertEquals(chooseMatrixVariant(kernel, 72, { features, limits }), undefined);
    assertEquals(chooseMatrixVariant(kernel, 64, { features: none, limits }), undefined);
    const small = { ...limits, maxWorkgroupMemoryBytes: 16_384 };
    assertEquals(chooseMatrixVariant(kernel, 64, { features, limits: small }), undefined);
  }
});
