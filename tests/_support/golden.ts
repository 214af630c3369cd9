/**
 * Golden cases: models with logits, gradients and losses written by transformers, and what a trainer has to match.
 *
 * @module
 */

import {
  type Backend,
  batchFromDocuments,
  batchFromSequences,
  type Chunks,
  IGNORED_LABEL,
  type ModelConfig,
  parseTrainConfig,
  type PrecisionName,
  readModelFolder,
  readModelWeights,
  type RecomputePolicy,
  SafetensorsFile,
  type SequenceStrategy,
  type TokenBatch,
  type TrainConfig,
  Trainer,
} from "@mst/core";
import { assertClose } from "./compare.ts";

/** A golden case in memory. */
export interface GoldenCase {
  readonly model: ModelConfig;
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly batch: TokenBatch;
  readonly seqTokens: number;
  /** Position of the first token that has logits. */
  readonly firstToken: number;
  readonly logits: Float32Array;
  readonly loss: number;
  readonly gradients: ReadonlyMap<string, Float32Array>;
  readonly losses: Float32Array;
}

/** Reads tests/golden/<name>. */
export async function readGolden(name: string): Promise<GoldenCase> {
  const folder = new URL(`../golden/${name}`, import.meta.url).pathname;
  const model = await readModelFolder(folder);
  using golden = await SafetensorsFile.open(`${folder}/golden.safetensors`);
  const ids = await golden.readIntegers("input_ids");
  const gradients = new Map<string, Float32Array>();
  for (const key of golden.entries.keys()) {
    if (key.startsWith("grad.")) gradients.set(key.slice(5), await golden.readFloats(key));
  }
  return {
    model,
    weights: await readModelWeights(folder, model),
    batch: batchFromSequences([ids]),
    seqTokens: ids.length,
    firstToken: 0,
    logits: await golden.readFloats("logits"),
    loss: (await golden.readFloats("loss"))[0],
    gradients,
    losses: await golden.readFloats("losses"),
  };
}

/**
 * The golden sequence and other documents packed into one sequence, in which the golden one alone counts: its logits are
 * the golden ones wherever it lies, and loss, gradients and training are its own.
 */
export function packGolden({ model, batch, ...golden }: GoldenCase): GoldenCase {
  const tokens = batch.inputs;
  const others = [tokens.slice(5, 22), tokens.slice(40)].map((ids) => ids.map((id) => (id + 1) % model.vocab));
  const packed = batchFromDocuments([[others[0], tokens, others[1]]]);
  const start = others[0].length;
  packed.labels.fill(IGNORED_LABEL, 0, start);
  packed.labels.fill(IGNORED_LABEL, start + tokens.length);
  return { ...golden, model, batch: packed, seqTokens: packed.inputs.length, firstToken: start };
}

/** How a golden case is run. */
export interface GoldenRun {
  readonly mlpChunks?: Chunks;
  readonly headChunks?: Chunks;
  readonly recompute?: RecomputePolicy;
  readonly precision?: PrecisionName;
}

/** Training settings of the golden cases: AdamW as in torch with weight decay on every parameter, nothing clipped. */
export function goldenTrainConfig(seqTokens: number, run: GoldenRun = {}): TrainConfig {
  return parseTrainConfig({
    seqTokens,
    steps: 10,
    learningRate: 1e-3,
    schedule: "constant",
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weightDecay: 0.1,
    clipNorm: 0,
    ...run,
  });
}

/**
 * Asserts that one rank reproduces a golden case.
 *
 * Tolerances: the golden numbers are f32 sums in another order. With k terms of size x the rounding is about
 * √k · 6e-8 · x: logits of size 1 to 10 over D = 64 and two blocks agree to 2e-5, gradients (size 1e-3 to 1e-1, sums over
 * 100 tokens) to 1e-6 + 1e-4 of their size; ten steps of AdamW, which divides by the root of tiny numbers, widen the
 * loss to 1e-4.
 *
 * In mixed precision every weight and activation is rounded to 11 bits, 4.9e-4 of its size, about ten times on the way
 * through two blocks: logits agree to 4e-3 of the largest, gradients, which come back the same way, to 2e-2, and losses,
 * means over 100 tokens of roundings of either sign, to 1e-3.
 */
export async function assertGolden(
  golden: GoldenCase,
  backend: Backend,
  strategy: SequenceStrategy,
  run: GoldenRun = {},
): Promise<void> {
  const packed = golden.batch.documentStarts !== undefined;
  const train = { ...goldenTrainConfig(golden.seqTokens, run), packed };
  using trainer = new Trainer({ backend, strategy, model: golden.model, train, weights: golden.weights });
  const { vocab } = golden.model;
  const tolerances = TOLERANCES[train.precision];
  const logits = await trainer.logits(golden.batch);
  for (const [i, position] of trainer.positions.entries()) {
    const at = (position - golden.firstToken) * vocab;
    if (at < 0 || at >= golden.logits.length) continue;
    assertClose(
      logits.subarray(i * vocab, (i + 1) * vocab),
      golden.logits.subarray(at, at + vocab),
      { ...tolerances.logits(largest(golden.logits)), what: `logits at position ${position}` },
    );
  }

  const { loss, gradients } = await trainer.gradients([golden.batch]);
  assertClose([loss], [golden.loss], { relative: tolerances.loss, what: "loss" });
  for (const [name, expected] of golden.gradients) {
    assertClose(gradients.get(name)!, expected, {
      ...tolerances.gradients(largest(expected)),
      what: `gradient of ${name}`,
      rejectAllZero: true,
    });
  }

  const losses: number[] = [];
  for (let step = 0; step < 10; step++) losses.push((await trainer.step([golden.batch])).loss);
  assertClose(losses, golden.losses, { relative: tolerances.losses, what: "losses of ten steps" });
}

/** Tolerances of {@linkcode assertGolden} by precision, some by the largest number of a tensor. */
const TOLERANCES = {
  f32: {
    logits: () => ({ absolute: 2e-5, relative: 2e-5 }),
    loss: 1e-5,
    gradients: () => ({ absolute: 1e-6, relative: 1e-4 }),
    losses: 1e-4,
  },
  mixed: {
    logits: (largest: number) => ({ absolute: 4e-3 * largest, relative: 2e-3 }),
    loss: 1e-3,
    gradients: (largest: number) => ({ absolute: 2e-2 * largest, relative: 2e-2 }),
    losses: 1e-3,
  },
} as const;

function largest(values: Float32Array): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}
