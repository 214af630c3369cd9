import { assertEquals, assertThrows } from "@std/assert";
import {
  type Backend,
  chunkCounts,
  type Chunks,
  createDecoder,
  createParameters,
  createReferenceBackend,
  createSingleStrategy,
  IGNORED_LABEL,
  type Layer,
  miniSequence,
  type ModelConfig,
  parseTrainConfig,
  planChunks,
  recompute,
  RECOMPUTE_POLICIES,
  type RecomputePolicy,
  savedTensors,
  type Tensor,
  tensorFrom,
  type TokenBatch,
} from "@mst/core";
import { assertClose } from "../_support/compare.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

interface Result {
  readonly loss: number;
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

interface Run {
  readonly mlpChunks: Chunks;
  readonly headChunks: Chunks;
  readonly policy?: RecomputePolicy;
  readonly microBatches?: number;
  readonly scale?: number;
  readonly frozen?: ReadonlySet<string>;
  readonly headIsEmbedding?: boolean;
}

/** Sum of losses and gradients of scale · Σ losses, over equal micro-batches that accumulate. */
async function lossAndGradients(model: ModelConfig, batch: TokenBatch, run: Run): Promise<Result> {
  const { mlpChunks, headChunks, policy = "layer", microBatches = 1, scale = 1, frozen, headIsEmbedding } = run;
  await using backend = createReferenceBackend({ poison: true });
  const strategy = createSingleStrategy(backend);
  const parameters = createParameters(backend, model, { seed: 3, frozen });
  for (const { value } of parameters.all) if (value.shape.length > 1) backend.ops.scale(value, 10); // far from linear
  if (headIsEmbedding) backend.ops.copy(parameters.embedding.value, parameters.head.value);
  const seqTokens = batch.inputs.length / batch.batch;
  const decoder = createDecoder({
    backend,
    model,
    parameters,
    strategy,
    seqTokens,
    ...chunkCounts(model, parseTrainConfig({ seqTokens, batch: batch.batch, mlpChunks, headChunks }), strategy),
    policy,
  });
  let loss = 0;
  for (let i = 0; i < microBatches; i++) {
    using total = await decoder.lossAndGradients(batch, scale);
    loss += (await backend.read(total))[0];
  }
  const gradients = new Map<string, Float32Array>();
  for (const { name, gradient } of parameters.all) if (gradient) gradients.set(name, await backend.read(gradient));
  parameters.free();
  assertEquals(backend.ledger.liveBytes(), 0);
  return { loss, gradients };
}

/** Rounding of f32 sums over a few hundred rows in another order: 1e-5 of the largest gradient of a weight. */
function assertSameGradients(actual: Result, expected: Result, factor: number, what: string): void {
  assertEquals([...actual.gradients.keys()], [...expected.gradients.keys()]);
  for (const [name, gradient] of expected.gradients) {
    const scaled = gradient.map((value) => value * factor);
    const largest = scaled.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    assertClose(actual.gradients.get(name)!, scaled, {
      absolute: 1e-5 * largest,
      what: `${what}: ${name}`,
      rejectAllZero: true,
    });
  }
}

const model = tinyModel();

for (const seqTokens of [6, 64, 65, 70, 257]) {
  for (const ignored of [0, 0.6]) {
    Deno.test(`any number of mini-sequences gives the same loss and gradients: S = ${seqTokens}, ${ignored} ignored`, async () => {
      const batch = randomBatch(model, seqTokens, { seed: seqTokens, ignored });
      const whole = await lossAndGradients(model, batch, { mlpChunks: 1, headChunks: 1, policy: "none" });
      const counts: Chunks[] = [1, 2, 3, 7, "auto", seqTokens, seqTokens + 5];
      for (const chunks of counts) {
        const run = { mlpChunks: chunks, headChunks: chunks };
        const once = await lossAndGradients(model, batch, run);
        assertClose([once.loss], [whole.loss], { relative: 1e-6, what: `loss with ${chunks} mini-sequences` });
        assertSameGradients(once, whole, 1, `${chunks} mini-sequences`);
        const twice = await lossAndGradients(model, batch, { ...run, microBatches: 2 });
        assertSameGradients(twice, whole, 2, `${chunks} mini-sequences, two micro-batches`);
      }
    });
  }
}

Deno.test("every recompute policy gives the same loss and gradients, in batches, with tied embeddings", async () => {
  for (const tiedEmbeddings of [false, true]) {
    const tied = tinyModel({ tiedEmbeddings, kvHeads: 1 });
    const batch = randomBatch(tied, 35, { batch: 3, ignored: 0.2 });
    const whole = await lossAndGradients(tied, batch, { mlpChunks: 1, headChunks: 1, policy: "none" });
    for (const policy of RECOMPUTE_POLICIES) {
      const sliced = await lossAndGradients(tied, batch, { mlpChunks: 4, headChunks: 5, policy });
      assertSameGradients(sliced, whole, 1, `${policy}, tied ${tiedEmbeddings}`);
    }
  }
});

Deno.test("tied embeddings collect the gradients of both uses", async () => {
  const [embedding, head, norm] = ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"];
  const batch = randomBatch(model, 20);
  const apart = await lossAndGradients(model, batch, { mlpChunks: 2, headChunks: 3, headIsEmbedding: true });
  const tied = await lossAndGradients(tinyModel({ tiedEmbeddings: true }), batch, { mlpChunks: 2, headChunks: 3 });
  const both = apart.gradients.get(embedding)!.map((value, i) => value + apart.gradients.get(head)![i]);
  const wanted = new Map([[embedding, both], [norm, apart.gradients.get(norm)!]]);
  const got = new Map([...tied.gradients].filter(([name]) => wanted.has(name)));
  assertSameGradients({ ...tied, gradients: got }, { ...apart, gradients: wanted }, 1, "tied");
});

Deno.test("slices whose labels are all ignored change nothing", async () => {
  const batch = randomBatch(model, 64);
  batch.labels.fill(IGNORED_LABEL, 0, 32);
  const whole = await lossAndGradients(model, batch, { mlpChunks: 1, headChunks: 1 });
  const sliced = await lossAndGradients(model, batch, { mlpChunks: 4, headChunks: 4 });
  assertSameGradients(sliced, whole, 1, "half ignored");
});

Deno.test("without any valid token the loss and every gradient are zero", async () => {
  const batch = randomBatch(model, 30, { ignored: 1 });
  const { loss, gradients } = await lossAndGradients(model, batch, { mlpChunks: 3, headChunks: 3 });
  assertEquals(loss, 0);
  for (const [name, gradient] of gradients) assertEquals(gradient.every((value) => value === 0), true, name);
});

Deno.test("the upstream gradient scales every gradient", async () => {
  const batch = randomBatch(model, 40, { ignored: 0.1 });
  const one = await lossAndGradients(model, batch, { mlpChunks: 3, headChunks: 7 });
  const other = await lossAndGradients(model, batch, { mlpChunks: 3, headChunks: 7, scale: -0.37 });
  assertEquals(other.loss, one.loss);
  assertSameGradients(other, one, -0.37, "upstream gradient -0.37");
});

Deno.test("a frozen weight gets no gradient, and the others keep theirs", async () => {
  const batch = randomBatch(model, 40);
  const frozen = new Set(["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]);
  const all = await lossAndGradients(model, batch, { mlpChunks: 3, headChunks: 7 });
  const some = await lossAndGradients(model, batch, { mlpChunks: 3, headChunks: 7, frozen });
  const wanted = [...all.gradients].filter(([name]) => !frozen.has(name));
  assertSameGradients(some, { loss: all.loss, gradients: new Map(wanted) }, 1, "partly frozen");
});

Deno.test("the comparison notices a gradient that is counted twice", async () => {
  const batch = randomBatch(model, 40);
  const run: Run = { mlpChunks: 3, headChunks: 3 };
  const once = await lossAndGradients(model, batch, run);
  const twice = await lossAndGradients(model, batch, { ...run, microBatches: 2 });
  assertThrows(() => assertSameGradients(twice, once, 1, "twice"), Error, "out of tolerance");
});

Deno.test("mini-sequences cover every row once and differ by one row at most", () => {
  for (const rows of [0, 1, 5, 6, 64, 65, 70, 257]) {
    for (const count of [1, 2, 3, 7, 64, 300]) {
      const chunks = planChunks(rows, count);
      assertEquals(chunks.length, Math.max(1, Math.min(count, rows)));
      assertEquals(chunks.map(({ start }) => start).slice(1), chunks.map(({ end }) => end).slice(0, -1));
      assertEquals([chunks[0].start, chunks.at(-1)!.end], [0, rows]);
      const lengths = chunks.map(({ start, end }) => end - start);
      assertEquals(Math.max(...lengths) - Math.min(...lengths) <= 1, true);
    }
  }
  assertThrows(() => planChunks(8, 0), RangeError, "Cannot cut 8 rows into 0 mini-sequences");
  assertThrows(() => planChunks(8, 1.5), RangeError);
});

Deno.test("long mini-sequences are whole tiles of 128 rows but for the last", () => {
  const lengths = (rows: number, count: number) => planChunks(rows, count).map(({ start, end }) => end - start);
  assertEquals(lengths(32_768, 5), [6656, 6528, 6528, 6528, 6528]);
  assertEquals(lengths(4_097, 2), [2176, 1921]);
  assertEquals(lengths(4_095, 2), [2048, 2047], "shorter than sixteen tiles each");
  assertEquals(lengths(10_000, 3), [3456, 3328, 3216]);
});

/** A layer written by a user: y = x · w (elementwise, w a number), without `apply`, `rematerialize` or `out`. */
function userLayer(backend: Backend, w: number, dw: { value: number }): Layer {
  return {
    backend,
    forward(x: Tensor) {
      const y = backend.empty(x.shape, "activations");
      backend.ops.copy(x, y);
      backend.ops.scale(y, w);
      return Promise.resolve({ y, saved: savedTensors({ x: x.share() }) });
    },
    async backward(dy: Tensor, saved) {
      const [x, d] = await backend.readAll([saved.tensors[0], dy]);
      saved.free();
      for (let i = 0; i < x.length; i++) dw.value += x[i] * d[i];
      const dx = backend.empty(dy.shape, "activations");
      backend.ops.copy(dy, dx);
      backend.ops.scale(dx, w);
      dy.free();
      return dx;
    },
  };
}

Deno.test("a layer of one's own is wrapped in one line", async () => {
  await using backend = createReferenceBackend({ poison: true });
  const dw = { value: 0 };
  const layer = userLayer(backend, 3, dw);
  for (
    const wrapped of [miniSequence(recompute(layer), { chunks: 3 }), recompute(miniSequence(layer, { chunks: 4 }))]
  ) {
    dw.value = 0;
    {
      using x = tensorFrom(backend, Float32Array.from({ length: 14 }, (_, i) => i), [7, 2], "activations");
      const { y, saved } = await wrapped.forward(x);
      using output = y;
      assertEquals(await backend.read(output), Float32Array.from({ length: 14 }, (_, i) => 3 * i));
      const dy = tensorFrom(backend, new Float32Array(14).fill(2), [7, 2], "activations");
      using dx = await wrapped.backward(dy, saved);
      assertEquals(await backend.read(dx), new Float32Array(14).fill(6));
      assertEquals(dw.value, 2 * 91);
    }
    assertEquals(backend.ledger.liveBytes(), 0);
  }
});
