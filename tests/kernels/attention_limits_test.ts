import { assert, assertEquals, assertThrows } from "@std/assert";
import { tensorFrom } from "../../packages/core/backend/backend.ts";
import type { DispatchLimits, KernelCall } from "../../packages/core/backend/webgpu/dispatch.ts";
import {
  tileKeyGradient,
  tileQueryGradient,
} from "../../packages/core/backend/webgpu/kernels/attention_tile_backward.ts";
import { tileForward } from "../../packages/core/backend/webgpu/kernels/attention_tile_forward.ts";
import {
  chooseAttentionVariant,
  TILE_VARIANTS,
  tileShape,
  type VariantDevice,
  variantName,
} from "../../packages/core/backend/webgpu/kernels/attention_variant.ts";
import { ALL_TERMS } from "../../packages/core/backend/webgpu/kernels/attention_wgsl.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import { forcedOps, inputsOf, type Name, positions, results, runAttention, shapeOf, TOLERANCE } from "./_attention.ts";

const SMALL = { batch: 2, heads: 4, kvHeads: 2, headDim: 8, queries: positions(150, 30), keys: positions(180) };

for (const kernelsFor of ["software", "gpu"] as const) {
  gpuTest(`attention on a driver that ends loops early, kernels for ${kernelsFor}`, async (backend) => {
    const limits = { ...backend.dispatcher.limits, maxLoopTurns: 400 };
    const forced = forcedOps(backend, { limits, isSoftware: kernelsFor === "software" });
    await assertOpMatchesReference(backend, {
      inputs: inputsOf(SMALL),
      run: (ops, tensors) => runAttention(ops === backend.ops ? forced : ops, tensors, shapeOf(SMALL)),
      results: results(),
    }, ["own"]);
  });
}

gpuTest("attention backward on a device with 8 storage buffers per kernel", async (backend) => {
  const calls: KernelCall[] = [];
  const limits = { ...backend.dispatcher.limits, maxStorageBuffers: 8 };
  const forced = forcedOps(backend, { limits, onRun: (call) => calls.push(call) });
  await assertOpMatchesReference(backend, {
    inputs: inputsOf(SMALL),
    run: (ops, tensors) => runAttention(ops === backend.ops ? forced : ops, tensors, shapeOf(SMALL)),
    results: results(),
  }, ["own"]);
  assertEquals(calls.map(({ kernel }) => kernel.split(" ")[0]), [
    "attention",
    ...Array(2).fill("attention_dq"),
    ...Array(3).fill("attention_dkv"),
  ]);
  for (const { kernel, tensors } of calls) assert(tensors.length <= 8, `${kernel} binds ${tensors.length} tensors`);
});

gpuTest("attention over more keys than a software driver's loops take turns", async (backend) => {
  const count = 4 * 65_536 + 100;
  const attentionCase = {
    batch: 1,
    heads: 1,
    kvHeads: 1,
    headDim: 2,
    queries: [5, count - 2, count - 1],
    keys: positions(count),
  };
  await assertOpMatchesReference(backend, {
    inputs: inputsOf(attentionCase),
    run: (ops, tensors) => runAttention(ops, tensors, shapeOf(attentionCase)),
    // 262,244 weights are added up, four by four: the roundings of 65,561 additions that stray both ways come to some
    // 256 · 2⁻²⁴ of the sum, 1.5e-5 of a log-sum-exp of 13, which has 1.5e-4.
    results: results(),
  }, ["own"]);
});

gpuTest("attention of more tiles than a dimension of the grid has workgroups", async (backend) => {
  const attentionCase = { batch: 260, heads: 256, kvHeads: 256, headDim: 2, queries: [3], keys: [3] };
  await assertOpMatchesReference(backend, {
    inputs: inputsOf(attentionCase),
    run: (ops, tensors) => runAttention(ops, tensors, shapeOf(attentionCase)),
    // One key has weight 1, so that its gradient is 0.
    results: { out: TOLERANCE, logSumExp: TOLERANCE, delta: TOLERANCE, dq: TOLERANCE, dk: TOLERANCE, dv: TOLERANCE },
  }, ["own"]);
});

function gpuWith(limits: Partial<DispatchLimits>): VariantDevice {
  return {
    limits: {
      maxBindingBytes: 2 ** 27,
      maxWorkgroupMemoryBytes: 16384,
      maxInvocations: 256,
      maxStorageBuffers: 8,
      offsetAlignmentBytes: 256,
      maxLoopTurns: Infinity,
      ...limits,
    },
    isSoftware: false,
    subgroupLanes: 0,
  };
}

Deno.test("a variant fits WebGPU's default limits for every head dim that models have, and more where there is more", () => {
  for (const kernel of ["attention", "attention_dq", "attention_dkv"] as const) {
    for (const headDim of [2, 16, 64, 80, 128, 256]) {
      const variants = [16384, 32768, 49152].map((maxWorkgroupMemoryBytes) => {
        const variant = chooseAttentionVariant(kernel, headDim, gpuWith({ maxWorkgroupMemoryBytes }));
        assert(variant.kind === "tiles");
        const { memoryBytes, invocations } = tileShape(variant, headDim);
        assert(memoryBytes <= maxWorkgroupMemoryBytes && invocations <= 256);
        return variant;
      });
      assert(variants[2].rows > variants[0].rows);
    }
  }
  assertThrows(
    () => chooseAttentionVariant("attention", 64, gpuWith({ maxWorkgroupMemoryBytes: 1024 })),
    RangeError,
    "Cannot run attention with head dim 64 in 1024 bytes of workgroup memory",
  );
});

gpuTest("every variant for GPUs is valid WGSL, also those that this device has too little memory for", async () => {
  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter!.requestDevice();
  const layout = { headDim: 128, width: 4, ranged: true, halves: ["q", "out"] } as const;
  for (const [kernel, choices] of Object.entries(TILE_VARIANTS)) {
    for (const { variant } of choices) {
      device.pushErrorScope("validation");
      device.createShaderModule({
        code: kernel === "attention"
          ? tileForward(variant, layout, true)
          : kernel === "attention_dq"
          ? tileQueryGradient(variant, layout, ALL_TERMS)
          : tileKeyGradient(variant, layout, ALL_TERMS),
      });
      const error = await device.popErrorScope();
      assertEquals(error?.message, undefined, `${kernel} ${variantName(variant)}`);
    }
  }
  device.destroy();
});

gpuTest("attention refuses a row of heads that does not fit a binding", (backend) => {
  using scope = new Scope();
  const attentionCase = { batch: 1, heads: 64, kvHeads: 64, headDim: 8, queries: [0], keys: [0] };
  const entries = Object.entries(inputsOf(attentionCase)).map(([name, { data, shape }]) =>
    [name, scope.own(tensorFrom(backend, data, shape, "scratch"))] as const
  );
  const tensors = Object.fromEntries(entries) as Record<Name, Tensor>;
  assertThrows(
    () => runAttention(backend.ops, tensors, shapeOf(attentionCase)),
    RangeError,
    "Cannot bind rows of 64 heads of 8 elements: a binding holds at most 1024 bytes",
  );
}, { maxBindingBytes: 1024 });
