/**
 * Finite-difference checks of every op with a backward, on the reference backend. Each loss is Σ out · weights with
 * random weights, summed in f64; gradients are added to what was there, which the tests look for too.
 */

import { assertEquals } from "@std/assert";
import type { Backend } from "../../packages/core/backend/backend.ts";
import { groupById, IGNORED_LABEL, type MatmulOptions, OTHER_PART_LABEL } from "../../packages/core/backend/ops.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import type { Shape } from "../../packages/core/tensor/shape.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { checkGradients, dot, type NamedArrays } from "../_support/gradient_check.ts";
import { Random } from "../_support/random.ts";
import { TestTensors } from "../_support/test_tensors.ts";

const EPSILON = 1e-5;

/** Layout of the product, and of the two products that are its backward: operands by name, `d` for the gradient of out. */
const products: {
  layout: string;
  options: MatmulOptions;
  da: [string, string, MatmulOptions];
  db: [string, string, MatmulOptions];
}[] = [
  { layout: "NN", options: {}, da: ["d", "b", { transposeB: true }], db: ["a", "d", { transposeA: true }] },
  { layout: "NT", options: { transposeB: true }, da: ["d", "b", {}], db: ["d", "a", { transposeA: true }] },
  { layout: "TN", options: { transposeA: true }, da: ["b", "d", { transposeB: true }], db: ["a", "d", {}] },
];

for (const { layout, options, da, db } of products) {
  opTest(`matmul ${layout}`, async (backend) => {
    const [m, n, k] = [5, 6, 3];
    const shapes: Record<string, Shape> = {
      a: options.transposeA ? [k, m] : [m, k],
      b: options.transposeB ? [n, k] : [k, n],
      d: [m, n],
    };
    const random = new Random(1);
    const inputs = { a: random.normals(m * k), b: random.normals(k * n) };
    const d = random.normals(m * n);
    using t = new TestTensors(backend);
    const tensors: Record<string, Tensor> = {
      a: t.from(inputs.a, shapes.a),
      b: t.from(inputs.b, shapes.b),
      d: t.from(d, shapes.d),
    };
    const gradients = [["a", da], ["b", db]] as const;
    const outs = gradients.map(([name, [left, right, transposition]]) => {
      const out = t.empty(shapes[name]);
      backend.ops.matmul(tensors[left], tensors[right], out, transposition);
      return out;
    });
    const [dA, dB] = await backend.readAll(outs);
    await checkGradients({
      what: `matmul ${layout}`,
      inputs,
      gradients: { a: dA, b: dB },
      loss: async ({ a, b }) => {
        using t = new TestTensors(backend);
        const out = t.empty(shapes.d);
        backend.ops.matmul(t.from(a, shapes.a), t.from(b, shapes.b), out, options);
        return dot(await backend.read(out), d);
      },
    });
  });
}

opTest("embedding", async (backend) => {
  const [vocabulary, width] = [5, 3];
  const ids = Uint32Array.of(4, 1, 1, 0, 4, 4, 2);
  const random = new Random(2);
  const inputs = { table: random.normals(vocabulary * width) };
  const d = random.normals(ids.length * width);
  const { order, segments } = groupById(ids);
  using t = new TestTensors(backend);
  const dTable = t.from(Array(vocabulary * width).fill(1), [vocabulary, width]);
  const groups = t.from(segments, [segments.length / 3, 3]);
  backend.ops.embeddingBackward(t.from(order, [order.length]), groups, t.from(d, [ids.length, width]), dTable);
  const gradient = minusOne(await backend.read(dTable));
  assertEquals([...gradient.subarray(9, 12)], [0, 0, 0], "a token that does not occur");
  await checkGradients({
    what: "embedding",
    inputs,
    gradients: { table: gradient },
    loss: async ({ table }) => {
      using t = new TestTensors(backend);
      const out = t.empty([ids.length, width]);
      backend.ops.embedding(t.from(ids, [ids.length]), t.from(table, [vocabulary, width]), out);
      return dot(await backend.read(out), d);
    },
  });
});

opTest("rmsNorm", async (backend) => {
  const shape = [6, 7];
  const random = new Random(3);
  const inputs = { x: random.normals(42), weight: random.normals(7) };
  const d = random.normals(42);
  const forward = ({ x, weight }: NamedArrays, t: TestTensors) => {
    const tensors = { x: t.from(x, shape), weight: t.from(weight, [7]), out: t.empty(shape), rstd: t.empty([6]) };
    backend.ops.rmsNorm(tensors.x, tensors.weight, tensors.out, tensors.rstd, EPSILON);
    return tensors;
  };
  using t = new TestTensors(backend);
  const { x, weight, rstd } = forward(inputs, t);
  const dOut = t.from(d, shape);
  const [dx, dWeight, dxFrozen] = [ones(t, shape), ones(t, [7]), ones(t, shape)];
  backend.ops.rmsNormBackward(x, weight, rstd, dOut, dx, dWeight);
  backend.ops.rmsNormBackward(x, weight, rstd, dOut, dxFrozen);
  const [dxValues, dWeightValues, dxFrozenValues] = await backend.readAll([dx, dWeight, dxFrozen]);
  assertEquals(dxFrozenValues, dxValues, "a frozen weight does not change dx");
  await checkGradients({
    what: "rmsNorm",
    inputs,
    gradients: { x: minusOne(dxValues), weight: minusOne(dWeightValues) },
    loss: async (inputs) => {
      using t = new TestTensors(backend);
      return dot(await backend.read(forward(inputs, t).out), d);
    },
  });
});

opTest("rope", async (backend) => {
  const [tokens, heads, headDim] = [3, 2, 6];
  const shape = [2 * tokens, heads * headDim];
  const random = new Random(4);
  const inputs = { x: random.normals(72) };
  const d = random.normals(72);
  const angles = random.normals(tokens * headDim / 2, 3);
  const table = Float32Array.from({ length: tokens * headDim }, (_, at) => {
    const [token, i] = [Math.floor(at / headDim), at % headDim];
    const angle = angles[token * headDim / 2 + i % (headDim / 2)];
    return i < headDim / 2 ? Math.cos(angle) : Math.sin(angle);
  });
  const rotate = async (x: Float32Array, options?: { inverse?: boolean }) => {
    using t = new TestTensors(backend);
    const tensor = t.from(x, shape);
    backend.ops.rope(tensor, t.from(table, [tokens, headDim]), heads, options);
    return await backend.read(tensor);
  };
  await checkGradients({
    what: "rope",
    inputs,
    gradients: { x: await rotate(d, { inverse: true }) },
    loss: async ({ x }) => dot(await rotate(x), d),
  });
});

opTest("gatedActivation", async (backend) => {
  const shape = [4, 5];
  const random = new Random(5);
  const inputs = { gate: random.normals(20, 2), up: random.normals(20) };
  const d = random.normals(20);
  const activate = async ({ gate, up }: NamedArrays) => {
    using t = new TestTensors(backend);
    const out = t.empty(shape);
    backend.ops.gatedActivation(t.from(gate, shape), t.from(up, shape), out);
    return await backend.read(out);
  };
  using t = new TestTensors(backend);
  const [gate, up, dOut] = [t.from(inputs.gate, shape), t.from(inputs.up, shape), t.from(d, shape)];
  backend.ops.gatedActivationBackward(gate, up, dOut);
  const [dGate, dUp, activation] = await backend.readAll([gate, up, dOut]);
  assertEquals(activation, await activate(inputs), "dOut becomes the activation");
  await checkGradients({
    what: "gatedActivation",
    inputs,
    gradients: { gate: dGate, up: dUp },
    loss: async (inputs) => dot(await activate(inputs), d),
  });
});

opTest("crossEntropy", async (backend) => {
  const shape = [5, 7];
  const labels = Uint32Array.of(0, IGNORED_LABEL, 6, 3, IGNORED_LABEL);
  const scale = 0.25;
  const inputs = { logits: new Random(6).normals(35, 2) };
  const run = async (logits: Float32Array) => {
    using t = new TestTensors(backend);
    const [gradient, losses] = [t.from(logits, shape), t.empty([5])];
    backend.ops.crossEntropy(gradient, t.from(labels, [5]), losses, scale);
    const [gradientValues, lossValues] = await backend.readAll([gradient, losses]);
    return { gradientValues, lossValues };
  };
  const { gradientValues } = await run(inputs.logits);
  await checkGradients({
    what: "crossEntropy",
    inputs,
    gradients: { logits: gradientValues },
    loss: async ({ logits }) => scale * (await run(logits)).lossValues.reduce((sum, loss) => sum + loss, 0),
  });
});

opTest("crossEntropyGradient", async (backend) => {
  const shape = [5, 7];
  const labels = Uint32Array.of(0, IGNORED_LABEL, OTHER_PART_LABEL, 3, 6);
  const scale = 0.25;
  const inputs = { logits: new Random(7).normals(35, 2) };
  /** Log-sum-exp less the logit at the label, which is 0 in the row whose target is elsewhere. */
  const sums = async (logits: Float32Array) => {
    using t = new TestTensors(backend);
    const out = t.empty([5, 2]);
    backend.ops.logSumExp(t.from(logits, shape), t.from(labels, [5]), out);
    return await backend.read(out);
  };
  using t = new TestTensors(backend);
  const logSumExp = (await sums(inputs.logits)).filter((_, i) => i % 2 === 0);
  const gradient = t.from(inputs.logits, shape);
  backend.ops.crossEntropyGradient(gradient, t.from(labels, [5]), t.from(logSumExp, [5]), scale);
  await checkGradients({
    what: "crossEntropyGradient",
    inputs,
    gradients: { logits: await backend.read(gradient) },
    loss: async ({ logits }) => {
      const values = await sums(logits);
      const losses = [...labels].map((label, row) =>
        label === IGNORED_LABEL ? 0 : values[2 * row] - values[2 * row + 1]
      );
      return scale * losses.reduce((sum, loss) => sum + loss, 0);
    },
  });
});

/** A test on a poisoned reference backend that ends with nothing alive. */
function opTest(op: string, check: (backend: Backend) => Promise<void>): void {
  Deno.test(`gradient of ${op} agrees with finite differences`, async () => {
    const backend = createReferenceBackend({ poison: true });
    await check(backend);
    assertEquals(backend.ledger.liveBytes(), 0);
  });
}

/** Where gradients are added up, with something there already. */
function ones(t: TestTensors, shape: Shape): Tensor {
  const tensor = t.empty(shape);
  t.backend.ops.fill(tensor, 1);
  return tensor;
}

/** What was added to {@linkcode ones}. */
function minusOne(values: Float32Array): Float32Array {
  return values.map((value) => value - 1);
}
