/**
 * Finite-difference checks of whole layers and of the whole decoder, on the reference backend.
 */

import { assertRejects } from "@std/assert";
import {
  attentionShape,
  createDecoder,
  createDecoderBlock,
  createParameters,
  createReferenceBackend,
  createSingleStrategy,
  IGNORED_LABEL,
  parameterSpecs,
  RECOMPUTE_POLICIES,
  type RecomputePolicy,
  rotaryTable,
  tensorFrom,
} from "@mst/core";
import { checkGradients, dot, type GradientCheck, type NamedArrays } from "../_support/gradient_check.ts";
import { Random } from "../_support/random.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

const model = tinyModel({ dim: 8, heads: 2, kvHeads: 1, headDim: 4, ffn: 12, vocab: 11, layers: 1 });
const TOKENS = 7;

/** Weights of a size at which softmax and SiLU are far from linear, and norms away from 1. */
function randomWeights(): Map<string, Float32Array> {
  const random = new Random(5);
  return new Map(
    parameterSpecs(model).map(({ name, shape }) => {
      const count = shape.reduce((product, dim) => product * dim, 1);
      return [
        name,
        shape.length === 1 ? random.normals(count, 0.3).map((value) => value + 1) : random.normals(count, 0.5),
      ];
    }),
  );
}

function weightsOf(inputs: NamedArrays): Map<string, Float32Array> {
  return new Map(parameterSpecs(model).map(({ name }) => [name, inputs[name]]));
}

/** Output of a block, or its gradients from dy, for weights and x given as arrays. */
async function runBlock(inputs: NamedArrays, policy: RecomputePolicy, dy?: Float32Array): Promise<NamedArrays> {
  await using backend = createReferenceBackend({ poison: true });
  const partition = createSingleStrategy(backend).partition(TOKENS);
  using core = createSingleStrategy(backend).attention(attentionShape(model, 1), partition);
  const table = rotaryTable(model, partition.positions[0]);
  using ropeTable = tensorFrom(backend, table, [TOKENS, model.headDim], "activations");
  const parameters = createParameters(backend, model, { seed: 0, weights: weightsOf(inputs) });
  const { heads, kvHeads, normEpsilon } = model;
  const rotary = { of: () => ropeTable.share() };
  const options = { core, rotary, heads, kvHeads, normEpsilon, mlpChunks: 3, policy };
  const block = createDecoderBlock(backend, parameters.blocks[0], options);
  using x = tensorFrom(backend, inputs.x, [TOKENS, model.dim], "activations");
  const { y, saved } = await block.forward(x);
  using output = y;
  if (!dy) {
    saved.free();
    return { y: await backend.read(output) };
  }
  using dx = await block.backward(tensorFrom(backend, dy, x.shape, "activations"), saved);
  const results: NamedArrays = { x: await backend.read(dx) };
  for (const { name, gradient } of parameters.all) {
    if (name.startsWith("model.layers.")) results[name] = await backend.read(gradient!);
  }
  return results;
}

async function blockCheck(policy: RecomputePolicy): Promise<GradientCheck> {
  const random = new Random(6);
  const inputs = { ...Object.fromEntries(randomWeights()), x: random.normals(TOKENS * model.dim) };
  const dy = random.normals(TOKENS * model.dim);
  return {
    what: `decoder block, recompute ${policy}`,
    inputs,
    gradients: await runBlock(inputs, policy, dy),
    loss: async (moved) => dot((await runBlock(moved, policy)).y, dy),
    // A whole block adds up the rounding of a dozen ops: 1e-6 over a step of 1/64.
    tolerance: 2e-3,
  };
}

for (const policy of RECOMPUTE_POLICIES) {
  Deno.test(`gradients of a decoder block agree with finite differences: recompute ${policy}`, async () => {
    await checkGradients(await blockCheck(policy));
  });
}

Deno.test("the check of a block notices a weight gradient that is 1% too large", async () => {
  const check = await blockCheck("layer");
  const name = "model.layers.0.mlp.up_proj.weight";
  check.gradients[name] = check.gradients[name].map((value) => value * 1.01);
  await assertRejects(() => checkGradients(check), Error, name);
});

/** Sum of losses of the decoder, and its gradients. */
async function runDecoder(inputs: NamedArrays): Promise<{ loss: number; gradients: NamedArrays }> {
  await using backend = createReferenceBackend({ poison: true });
  const parameters = createParameters(backend, model, { seed: 0, weights: weightsOf(inputs) });
  const strategy = createSingleStrategy(backend);
  const decoder = createDecoder({
    backend,
    model,
    parameters,
    strategy,
    seqTokens: TOKENS,
    mlpChunks: 2,
    headChunks: 3,
    policy: "layer",
  });
  const batch = randomBatch(model, TOKENS, { batch: 2 });
  batch.labels[3] = IGNORED_LABEL;
  using total = await decoder.lossAndGradients(batch, 1);
  const gradients: NamedArrays = {};
  for (const { name, gradient } of parameters.all) gradients[name] = await backend.read(gradient!);
  return { loss: (await backend.read(total))[0], gradients };
}

Deno.test("gradients of the whole decoder agree with finite differences", async () => {
  const inputs = Object.fromEntries(randomWeights());
  await checkGradients({
    what: "decoder",
    inputs,
    gradients: (await runDecoder(inputs)).gradients,
    loss: async (moved) => (await runDecoder(moved)).loss,
    tolerance: 5e-3, // the summed loss is about 50, so its own rounding is 3e-6 over a step of 1/64
  });
});
