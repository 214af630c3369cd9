import { assertEquals } from "@std/assert";
import type { Dispatcher, KernelCall } from "../../packages/core/backend/webgpu/dispatch.ts";
import { adamw } from "../../packages/core/backend/webgpu/kernels/adamw.ts";
import { attention } from "../../packages/core/backend/webgpu/kernels/attention.ts";
import { attentionBackward } from "../../packages/core/backend/webgpu/kernels/attention_backward.ts";
import { forwardMatrices } from "../../packages/core/backend/webgpu/kernels/attention_forward_variant.ts";
import { matrices } from "../../packages/core/backend/webgpu/kernels/attention_matrix_variant.ts";
import { attentionDelta } from "../../packages/core/backend/webgpu/kernels/attention_delta.ts";
import { copyColumns } from "../../packages/core/backend/webgpu/kernels/columns.ts";
import { crossEntropy } from "../../packages/core/backend/webgpu/kernels/cross_entropy.ts";
import { add, scale } from "../../packages/core/backend/webgpu/kernels/elementwise.ts";
import { embedding, embeddingBackward } from "../../packages/core/backend/webgpu/kernels/embedding.ts";
import {
  gatedActivation,
  gatedActivationBackward,
} from "../../packages/core/backend/webgpu/kernels/gated_activation.ts";
import { initNormal } from "../../packages/core/backend/webgpu/kernels/init_normal.ts";
import { matmul } from "../../packages/core/backend/webgpu/kernels/matmul.ts";
import { rmsNorm } from "../../packages/core/backend/webgpu/kernels/rms_norm.ts";
import { rmsNormBackward } from "../../packages/core/backend/webgpu/kernels/rms_norm_backward.ts";
import { rope } from "../../packages/core/backend/webgpu/kernels/rope.ts";
import { crossEntropyGradient, logSumExp } from "../../packages/core/backend/webgpu/kernels/vocabulary_softmax.ts";
import type { DType } from "../../packages/core/tensor/shape.ts";
import { gpuTest } from "../_support/gpu.ts";
import { TestTensors } from "../_support/test_tensors.ts";

/** Calls every kernel whose text is written once for a key. */
function callAll(dispatcher: Dispatcher, t: TestTensors, dtype: DType, columns: number): void {
  const rows = 3;
  const matrix = (type: DType = dtype) => t.empty([rows, columns], type);
  const [x, y, z] = [matrix(), matrix(), matrix()];
  const [weight, rstd, ids] = [t.empty([columns]), t.empty([rows]), t.empty([rows], "u32")];
  for (const each of [x, matrix("f32")]) add(dispatcher, each, y);
  scale(dispatcher, x, 2);
  for (const out of [x, y, z]) gatedActivation(dispatcher, x, y, out);
  gatedActivationBackward(dispatcher, x, y, z);
  initNormal(dispatcher, x, { std: 1, seed: 1, stream: 1 });
  for (const accumulate of [false, true]) {
    copyColumns(dispatcher, { x, xColumn: 0, out: y, outColumn: 0, columns }, accumulate);
  }
  for (const sum of [undefined, z]) rmsNorm(dispatcher, { x, weight, out: y, rstd, add: sum }, 1e-5);
  rmsNormBackward(dispatcher, { x, weight, rstd, dOut: y, dx: z, dWeight: weight });
  if (columns % 4 === 0) {
    const table = t.empty([rows, columns]);
    for (const rotated of [[x], [x, y]]) {
      rope(dispatcher, rotated.map((each) => ({ x: each, heads: 1 })), table, false);
    }
  }
  attentionDelta(dispatcher, { out: x, dOut: y, delta: t.empty([rows, 1]) }, 1);
  if (columns <= 40) {
    const inputs = { q: x, k: y, v: z, queryPositions: ids, keyPositions: ids };
    const shape = { batch: 1, heads: 1, kvHeads: 1, headDim: columns, scale: 1 };
    const [out, perRow] = [matrix(), t.empty([rows, 1])];
    for (const resume of [false, true]) attention(dispatcher, inputs, out, perRow, shape, { resume });
    const gradients = { dq: matrix(), dk: matrix(), dv: matrix() };
    attentionBackward(dispatcher, inputs, out, perRow, t.empty([rows, 1]), gradients, shape);
  }
  for (const accumulate of [false, true]) {
    matmul(dispatcher, x, y, t.empty([rows, rows]), { transposeB: true, accumulate });
    matmul(dispatcher, x, y, t.empty([columns, columns]), { transposeA: true, accumulate });
  }
  if (dtype === "f16" && columns % 8 === 0) {
    // Two of one tile, and of one name.
    for (const [teamM, teamN, teamsM, teamsN] of [[16, 32, 2, 1], [32, 16, 1, 2]]) {
      const variant = { kind: "units", teamM, teamN, teamsM, teamsN, tileK: 32 } as const;
      for (const unit of ["subgroup", "emulated"] as const) {
        matmul(dispatcher, x, y, t.empty([rows, rows]), { transposeB: true, plan: { variant, parts: 1 }, unit });
      }
    }
  }
  embedding(dispatcher, ids, x, y);
  embeddingBackward(dispatcher, ids, t.empty([rows, 3], "u32"), x, matrix("f32"));
  crossEntropy(dispatcher, { logits: x, labels: ids, losses: rstd }, 1);
  logSumExp(dispatcher, { logits: x, labels: ids, out: t.empty([rows, 2]) });
  crossEntropyGradient(dispatcher, { logits: x, labels: ids, logSumExp: rstd }, 1);
  const options = { learningRate: 1, beta1: 0.9, beta2: 0.9, epsilon: 1, weightDecay: 0, step: 1 };
  for (const moments of columns % 2 === 0 ? ["f32", "bf16"] as const : ["f32"] as const) {
    const [grad, m, v] = [matrix("f32"), matrix(moments), matrix(moments)];
    const rounding = { seed: 1, stream: 1 };
    for (const clip of [undefined, t.empty([2])]) {
      adamw(dispatcher, { param: x, grad, m, v, clip }, { ...options, rounding });
    }
  }
}

/** Calls kernels of attention on matrix units in variants that share a name. */
function callMatrices(dispatcher: Dispatcher, t: TestTensors): void {
  const matrix = () => t.empty([3, 64], "f16");
  const [q, k, v, out] = [matrix(), matrix(), matrix(), matrix()];
  const [perRow, ids] = [t.empty([3, 1]), t.empty([3], "u32")];
  const inputs = { q, k, v, queryPositions: ids, keyPositions: ids };
  const shape = { batch: 1, heads: 1, kvHeads: 1, headDim: 64, scale: 1 };
  const gradients = { dq: matrix(), dk: matrix(), dv: matrix() };
  for (const unit of ["subgroup", "emulated"] as const) {
    for (const teams of [1, 2]) {
      attention(dispatcher, inputs, out, perRow, shape, { variant: forwardMatrices(32, teams, 16, 16, unit) });
    }
    for (const tile of [32, 64]) {
      for (const views of [false, true]) {
        const variant = matrices(16, 4, tile, 16, { unit, views });
        attentionBackward(dispatcher, inputs, out, perRow, t.empty([3, 1]), gradients, shape, {
          queryVariant: variant,
          keyVariant: variant,
        });
      }
    }
  }
}

gpuTest("a key says all that the text of a kernel depends on", (backend) => {
  using t = new TestTensors(backend);
  const { limits, features, subgroupLanes } = backend.dispatcher;
  const texts = new Map<string, string>();
  for (const isSoftware of [false, true]) {
    const dispatcher: Dispatcher = {
      ...{ limits, features, subgroupLanes, isSoftware },
      workspace: () => backend.dispatcher.workspace(),
      run({ code, kernel }: KernelCall) {
        if (typeof code === "string") return;
        const text = code.write();
        const key = `${code.key} ${code.form ?? 0}`;
        assertEquals(texts.get(key) ?? text, text, `${kernel}: two texts for the key and form ${key}`);
        texts.set(key, text);
      },
    };
    for (const dtype of ["f32", "f16"] as const) {
      callMatrices(dispatcher, t);
      for (const columns of [2, 4, 8, 40, 2048, ...dtype === "f32" ? [3] : []]) callAll(dispatcher, t, dtype, columns);
    }
  }
  // Kernels in several widths, plans and element types: fewer would mean that some were not called.
  assertEquals(texts.size > 150, true, `${texts.size} texts`);
});
