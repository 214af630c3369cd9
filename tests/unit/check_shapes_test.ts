/** Every op must refuse wrong shapes, element types, options, freed tensors and overlaps, with a message that says so. */

import { assertEquals, assertThrows } from "@std/assert";
import { checkAdd } from "../../packages/core/backend/check_shapes.ts";
import { type AttentionInputs, type AttentionShape, type Ops, PARTIAL_SUMS } from "../../packages/core/backend/ops.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import type { DType, Shape } from "../../packages/core/tensor/shape.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { TestTensors } from "../_support/test_tensors.ts";

type Make = (shape: Shape, dtype?: DType) => Tensor;

/** Calls that must be refused: op, part of the message, call. */
const refusals: [op: keyof Ops, message: string, call: (ops: Ops, f: Make, t: TestTensors) => void][] = [
  [
    "matmul",
    "Cannot multiply [3, 4] by [5, 6] (NN) into [3, 6]: the inner dims",
    (ops, f) => ops.matmul(f([3, 4]), f([5, 6]), f([3, 6])),
  ],
  [
    "matmul",
    "Cannot multiply [3, 4] by [5, 6] (NT) into [3, 5]: the inner dims",
    (ops, f) => ops.matmul(f([3, 4]), f([5, 6]), f([3, 5]), { transposeB: true }),
  ],
  [
    "matmul",
    "Cannot multiply [4, 3] by [5, 6] (TN)",
    (ops, f) => ops.matmul(f([4, 3]), f([5, 6]), f([3, 6]), { transposeA: true }),
  ],
  ["matmul", "out of matmul must be [3, 6]", (ops, f) => ops.matmul(f([3, 4]), f([4, 6]), f([6, 3]))],
  ["matmul", "two dims", (ops, f) => ops.matmul(f([3, 4]), f([4]), f([3, 1]))],
  [
    "matmul",
    "must not be used together",
    (ops, f) => ops.matmul(f([4, 4]), f([4, 4]), f([4, 4]), { transposeA: true, transposeB: true }),
  ],
  ["matmul", "a must be f32 or f16, not u32", (ops, f) => ops.matmul(f([3, 4], "u32"), f([4, 6]), f([3, 6]))],
  ["embedding", "ids must be u32, not f32", (ops, f) => ops.embedding(f([3]), f([9, 4]), f([3, 4]))],
  ["embedding", "out must be [3, 4]", (ops, f) => ops.embedding(f([3], "u32"), f([9, 4]), f([4, 3]))],
  [
    "embeddingBackward",
    "segments must be [2, 3]",
    (ops, f) => ops.embeddingBackward(f([3], "u32"), f([2, 2], "u32"), f([3, 4]), f([9, 4])),
  ],
  ["rmsNorm", "weight must be [4]", (ops, f) => ops.rmsNorm(f([2, 4]), f([2]), f([2, 4]), f([2]), 1e-5)],
  ["rmsNorm", "rstd must be [2]", (ops, f) => ops.rmsNorm(f([2, 4]), f([4]), f([2, 4]), f([4]), 1e-5)],
  [
    "rmsNorm",
    "epsilon must not be negative, not NaN",
    (ops, f) => ops.rmsNorm(f([2, 4]), f([4]), f([2, 4]), f([2]), NaN),
  ],
  [
    "rmsNormBackward",
    "dWeight must be [4]",
    (ops, f) => ops.rmsNormBackward(f([2, 4]), f([4]), f([2]), f([2, 4]), f([2, 4]), f([2])),
  ],
  ["rope", "x must have 3 heads × 4", (ops, f) => ops.rope(f([2, 8]), f([2, 4]), 3)],
  ["rmsNorm", "out must be f16, not f32", (ops, f) => {
    ops.rmsNorm(f([2, 4], "f16"), f([4]), f([2, 4]), f([2]), 1e-5);
  }],
  ["rmsNorm", "add must be [2, 4]", (ops, f) => {
    ops.rmsNorm(f([2, 4]), f([4]), f([2, 4]), f([2]), 1e-5, { add: f([1, 4]) });
  }],
  ["rope", "half the head dim of f16 must be even, not 3", (ops, f) => ops.rope(f([2, 6], "f16"), f([2, 6]), 1)],
  ["rope", "keys must be [2, 8]", (ops, f) => ops.rope(f([2, 4]), f([2, 4]), 1, { keys: { x: f([2, 4]), heads: 2 } })],
  ["rope", "must be even, not 3", (ops, f) => ops.rope(f([2, 6]), f([2, 3]), 2)],
  ["rope", "a multiple of the 2 rows of table", (ops, f) => ops.rope(f([3, 8]), f([2, 4]), 2)],
  ["attention", "logSumExp must be [6, 4]", (ops, f) => {
    const { inputs, out, shape } = attentionOf(f);
    ops.attention(inputs, out, f([6, 2]), shape);
  }],
  ["attention", "k must be [10, 6]", (ops, f) => {
    const { inputs, out, logSumExp, shape } = attentionOf(f);
    ops.attention({ ...inputs, k: f([10, 12]) }, out, logSumExp, shape);
  }],
  ["attention", "queryPositions must be u32", (ops, f) => {
    const { inputs, out, logSumExp, shape } = attentionOf(f);
    ops.attention({ ...inputs, queryPositions: f([3]) }, out, logSumExp, shape);
  }],
  ["attention", "queryPositions must be [6, 2]", (ops, f) => {
    const { inputs, out, logSumExp, shape } = attentionOf(f);
    ops.attention({ ...inputs, queryPositions: f([3, 2], "u32") }, out, logSumExp, shape);
  }],
  ["attention", "4 heads and 3 kv heads", (ops, f) => {
    const { inputs, out, logSumExp, shape } = attentionOf(f);
    ops.attention(inputs, out, logSumExp, { ...shape, kvHeads: 3 });
  }],
  ["attention", "multiples of the batch of 4", (ops, f) => {
    const { inputs, out, logSumExp, shape } = attentionOf(f);
    ops.attention(inputs, out, logSumExp, { ...shape, batch: 4 });
  }],
  ["attention", "headDim must be a positive integer", (ops, f) => {
    const { inputs, out, logSumExp, shape } = attentionOf(f);
    ops.attention(inputs, out, logSumExp, { ...shape, headDim: 0 });
  }],
  ["attentionDelta", "a multiple of 3 heads", (ops, f) => ops.attentionDelta(f([2, 8]), f([2, 8]), f([2, 3]), 3)],
  ["attentionDelta", "delta must be [2, 4]", (ops, f) => ops.attentionDelta(f([2, 8]), f([2, 8]), f([4, 2]), 4)],
  ["attentionBackward", "dv must be [10, 6]", (ops, f) => {
    const { inputs, out, logSumExp, shape } = attentionOf(f);
    const gradients = { dq: f([6, 12]), dk: f([10, 6]), dv: f([10, 12]) };
    ops.attentionBackward(inputs, out, logSumExp, f([6, 4]), gradients, shape);
  }],
  ["gatedActivation", "up must be [2, 4]", (ops, f) => ops.gatedActivation(f([2, 4]), f([4, 2]), f([2, 4]))],
  [
    "gatedActivationBackward",
    "dOut must be [2, 4]",
    (ops, f) => ops.gatedActivationBackward(f([2, 4]), f([2, 4]), f([2, 3])),
  ],
  ["crossEntropy", "labels must be [2]", (ops, f) => ops.crossEntropy(f([2, 4]), f([4], "u32"), f([2]), 1)],
  ["logSumExp", "out must be [2, 2]", (ops, f) => ops.logSumExp(f([2, 4]), f([2], "u32"), f([2]))],
  ["logSumExp", "a row must have a logit or more", (ops, f) => ops.logSumExp(f([2, 0]), f([2], "u32"), f([2, 2]))],
  [
    "crossEntropyGradient",
    "logSumExp must be [2]",
    (ops, f) => ops.crossEntropyGradient(f([2, 4]), f([2], "u32"), f([2, 2]), 1),
  ],
  ["sum", "out must be [1]", (ops, f) => ops.sum(f([5]), f([2]))],
  ["sumSquares", `out must be [${PARTIAL_SUMS}]`, (ops, f) => ops.sumSquares(f([5]), f([1]))],
  ["clipFactor", "result must be [2]", (ops, f) => ops.clipFactor(f([PARTIAL_SUMS]), f([1]), 1)],
  ["clipFactor", "maxNorm must be positive, not 0", (ops, f) => ops.clipFactor(f([PARTIAL_SUMS]), f([2]), 0)],
  ["adamw", "grad must have 6 elements, not 5", (ops, f) => ops.adamw(f([2, 3]), f([5]), f([6]), f([6]), adamw)],
  [
    "adamw",
    "step must count from 1, not 0",
    (ops, f) => ops.adamw(f([6]), f([6]), f([6]), f([6]), { ...adamw, step: 0 }),
  ],
  [
    "adamw",
    "beta2 must be at least 0 and below 1, not 1",
    (ops, f) => ops.adamw(f([6]), f([6]), f([6]), f([6]), { ...adamw, beta2: 1 }),
  ],
  ["adamw", "rounding must be given", (ops, f) => ops.adamw(f([6], "f16"), f([6]), f([6]), f([6]), adamw)],
  ["adamw", "v must be bf16, not f32", (ops, f) => ops.adamw(f([6]), f([6]), f([6], "bf16"), f([6]), adamw)],
  [
    "adamw",
    "gradientScale must be positive and finite, not 0",
    (ops, f) => ops.adamw(f([6]), f([6]), f([6]), f([6]), { ...adamw, gradientScale: 0 }),
  ],
  ["adamw", "clip must be [2]", (ops, f) => ops.adamw(f([6]), f([6]), f([6]), f([6]), adamw, f([1]))],
  ["cast", "x must be f32 or f16 or bf16, not u32", (ops, f) => ops.cast(f([2], "u32"), f([2]))],
  [
    "copyColumns",
    "f16 lies in pairs",
    (ops, f) => ops.copyColumns(f([2, 4], "f16"), 1, f([2, 4], "f16"), 0, 2),
  ],
  ["gatedActivation", "up must be f16, not f32", (ops, f) => {
    ops.gatedActivation(f([2, 4], "f16"), f([2, 4]), f([2, 4], "f16"));
  }],
  ["add", "out must have 6 elements, not 5", (ops, f) => ops.add(f([2, 3]), f([5]))],
  ["scale", "x must be f32", (ops, f) => ops.scale(f([2], "u32"), 2)],
  ["fill", "x must be f32", (ops, f) => ops.fill(f([2], "u32"), 2)],
  ["copy", "out must be u32, not f32", (ops, f) => ops.copy(f([2], "u32"), f([2]))],
  ["copy", "out must have 2 elements, not 3", (ops, f) => ops.copy(f([2]), f([3]))],
  ["copyColumns", "out must be [2, 3]", (ops, f) => ops.copyColumns(f([2, 4]), 0, f([3, 3]), 0, 1)],
  ["copyColumns", "3 columns from 2 must be among the 4 of x", (ops, f) => {
    ops.copyColumns(f([2, 4]), 2, f([2, 9]), 0, 3);
  }],
  ["copyColumns", "2 columns from -1 must be among the 3 of out", (ops, f) => {
    ops.copyColumns(f([2, 4]), 0, f([2, 3]), -1, 2);
  }],
  ["copyColumns", "0.5 columns from 0 must", (ops, f) => ops.copyColumns(f([2, 4]), 0, f([2, 3]), 0, 0.5)],
  ["copyColumns", "out must not overlap x", (ops, f) => {
    const x = f([2, 4]);
    ops.copyColumns(x, 0, x, 2, 2);
  }],
  ["initNormal", "std must not be negative, not -1", (ops, f) => ops.initNormal(f([2]), { ...init, std: -1 })],
  ["initNormal", "seed must be a u32, not 0.5", (ops, f) => ops.initNormal(f([2]), { ...init, seed: 0.5 })],
  ["initNormal", "stream must be a u32, not -1", (ops, f) => ops.initNormal(f([2]), { ...init, stream: -1 })],
  ["initNormal", "start must be a non-negative integer", (ops, f) => ops.initNormal(f([2]), { ...init, start: 0.5 })],
  ["initNormal", "stride must be an integer from 3", (ops, f) => ops.initNormal(f([2, 3]), { ...init, stride: 2 })],
  ["initNormal", "below 2^32", (ops, f) => ops.initNormal(f([2, 3]), { ...init, stride: 2 ** 31 })],
  ["matmul", "out must not overlap b", (ops, f) => {
    const b = f([4, 4]);
    ops.matmul(f([4, 4]), b, b);
  }],
  ["rmsNorm", "out must not overlap x", (ops, f, t) => {
    const whole = f([3, 4]);
    ops.rmsNorm(t.rows(whole, 0, 2), f([4]), t.rows(whole, 1, 3), f([2]), 1e-5);
  }],
  ["gatedActivation", "out must not overlap gate", (ops, f, t) => {
    const whole = f([3, 4]);
    ops.gatedActivation(t.rows(whole, 0, 2), f([2, 4]), t.rows(whole, 1, 3));
  }],
  ["gatedActivationBackward", "up must not overlap dOut", (ops, f) => {
    const up = f([2, 4]);
    ops.gatedActivationBackward(f([2, 4]), up, up);
  }],
  ["add", "out must not overlap x", (ops, f) => {
    const x = f([4]);
    ops.add(x, x);
  }],
  ["adamw", "m must not overlap v", (ops, f) => {
    const moments = f([6]);
    ops.adamw(f([6]), f([6]), moments, moments, adamw);
  }],
];

const adamw = { learningRate: 1, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0, step: 1 };
const init = { std: 1, seed: 1, stream: 1 };

for (const [op, message, call] of refusals) {
  Deno.test(`${op} is refused when ${message}`, () => {
    const backend = createReferenceBackend();
    using t = new TestTensors(backend);
    const error = assertThrows(
      () => call(backend.ops, (shape, dtype) => t.empty(shape, dtype), t),
      RangeError,
      message,
    );
    if (op !== "matmul") assertEquals(error.message.startsWith(`Cannot run ${op} `), true, error.message);
  });
}

Deno.test("every op has a call that it refuses", () => {
  const { ops } = createReferenceBackend();
  const names = Object.getOwnPropertyNames(Object.getPrototypeOf(ops)).filter((name) => name !== "constructor");
  assertEquals(names.toSorted(), [...new Set<string>(refusals.map(([op]) => op))].toSorted());
});

Deno.test("an op refuses a freed tensor", () => {
  const backend = createReferenceBackend();
  const [x, out] = [backend.empty([2], "scratch"), backend.empty([2], "scratch")];
  using view = x.share();
  x.free();
  assertThrows(() => backend.ops.add(x, out), ReferenceError, "Cannot use a freed scratch tensor of shape [2]");
  assertThrows(() => checkAdd(x, out), ReferenceError, "freed");
  backend.ops.add(view, out);
  out.free();
  assertThrows(() => backend.ops.add(view, out), ReferenceError);
});

Deno.test("ops take inputs that are the same tensor, and neighbours in one storage", () => {
  const backend = createReferenceBackend();
  using t = new TestTensors(backend);
  const [x, whole] = [t.empty([4, 4]), t.empty([4, 4])];
  backend.ops.matmul(x, x, t.empty([4, 4]));
  backend.ops.add(t.rows(whole, 0, 2), t.rows(whole, 2, 4));
  backend.ops.gatedActivation(x, x, x);
  backend.ops.add(t.empty([0, 4]), t.rows(whole, 1, 1));
});

/** Attention of 2 sequences, 3 queries and 5 keys each, 4 heads, 2 kv heads, head dim 3. */
function attentionOf(f: Make): { inputs: AttentionInputs; out: Tensor; logSumExp: Tensor; shape: AttentionShape } {
  const inputs = {
    q: f([6, 12]),
    k: f([10, 6]),
    v: f([10, 6]),
    queryPositions: f([3], "u32"),
    keyPositions: f([5], "u32"),
  };
  const shape = { batch: 2, heads: 4, kvHeads: 2, headDim: 3, scale: 1 };
  return { inputs, out: f([6, 12]), logSumExp: f([6, 4]), shape };
}
