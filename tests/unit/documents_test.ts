import { assert, assertEquals, AssertionError, assertThrows } from "@std/assert";
import {
  batchFromDocuments,
  batchFromSequences,
  createReferenceBackend,
  createSingleStrategy,
  documentCount,
  type GradientReport,
  IGNORED_LABEL,
  type ModelConfig,
  parseTrainConfig,
  rotaryTable,
  type TokenBatch,
  Trainer,
  validTokens,
} from "@mst/core";
import { createRotaryTables } from "../../packages/core/model/rope_table.ts";
import { checkDocuments } from "../../packages/core/model/documents.ts";
import { assertClose } from "../_support/compare.ts";
import { Random } from "../_support/random.ts";
import { tinyModel } from "../_support/tiny_model.ts";

const MODEL = tinyModel();

function documentsOf(lengths: readonly number[], seed = 1): Uint32Array[] {
  const random = new Random(seed);
  return lengths.map((length) => random.integers(length, MODEL.vocab));
}

async function withTrainer<T>(
  model: ModelConfig,
  batches: readonly TokenBatch[],
  body: (trainer: Trainer) => Promise<T>,
): Promise<T> {
  const [{ batch, inputs, documentStarts }] = batches;
  const train = parseTrainConfig({
    ...{ seqTokens: inputs.length / batch, batch, accumulate: batches.length },
    packed: documentStarts !== undefined,
    ...{ mlpChunks: 3, headChunks: 2 },
  });
  await using backend = createReferenceBackend({ poison: true });
  using trainer = new Trainer({ backend, strategy: createSingleStrategy(backend), model, train });
  return await body(trainer);
}

/** Loss and gradients of each document as a sequence of its own, as the mean over all of their valid tokens. */
async function gradientsOneByOne(documents: readonly Uint32Array[]): Promise<GradientReport> {
  let [loss, valid] = [0, 0];
  const sums = new Map<string, Float64Array>();
  for (const document of documents) {
    const batch = batchFromSequences([document]);
    const tokens = validTokens(batch);
    const report = await withTrainer(MODEL, [batch], (trainer) => trainer.gradients([batch]));
    loss += report.loss * tokens;
    valid += tokens;
    for (const [name, values] of report.gradients) {
      const sum = sums.get(name) ?? new Float64Array(values.length);
      sums.set(name, sum.map((value, i) => value + values[i] * tokens));
    }
  }
  const gradients = new Map([...sums].map(([name, sum]) => [name, Float32Array.from(sum, (value) => value / valid)]));
  return { loss: loss / valid, gradients };
}

function assertSameReport(actual: GradientReport, expected: GradientReport): void {
  assertClose([actual.loss], [expected.loss], { relative: 1e-6, what: "loss" });
  assertEquals([...actual.gradients.keys()], [...expected.gradients.keys()]);
  for (const [name, values] of expected.gradients) {
    // f32 sums in another order, and angles of other tiles: 1e-5 of the largest gradient of the weight
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const tolerance = { absolute: 1e-5 * largest, what: name, rejectAllZero: true };
    assertClose(actual.gradients.get(name)!, values, tolerance);
  }
}

Deno.test("packed documents train as each document by itself", async () => {
  const documents = documentsOf([11, 1, 33, 2, 17]);
  const expected = await gradientsOneByOne(documents);
  const inOne = batchFromDocuments([documents]);
  assertSameReport(await withTrainer(MODEL, [inOne], (trainer) => trainer.gradients([inOne])), expected);

  const inTwo = batchFromDocuments([[documents[2]], [
    documents[0],
    documents[1],
    documents[3],
    documents[4],
    documentsOf([2])[0],
  ]]);
  inTwo.labels[64] = IGNORED_LABEL; // what fills the second sequence up does not count
  assertSameReport(await withTrainer(MODEL, [inTwo], (trainer) => trainer.gradients([inTwo])), expected);
});

Deno.test("without document starts, or with one that is off, gradients are others", async () => {
  const documents = documentsOf([11, 1, 33, 2, 17]);
  const expected = await gradientsOneByOne(documents);
  const packed = batchFromDocuments([documents]);
  const { documentStarts: _starts, ...plain } = packed;
  const shifted = { ...packed, documentStarts: packed.documentStarts!.slice() };
  shifted.documentStarts[45] = 12; // the first token of the fourth document counts to the third
  shifted.documentStarts[46] = 46;
  for (const wrong of [plain, shifted]) {
    const report = await withTrainer(MODEL, [wrong], (trainer) => trainer.gradients([wrong]));
    assertThrows(() => assertSameReport(report, expected), AssertionError, "out of tolerance");
  }
});

Deno.test("a document's logits are the same bits wherever it is packed", async () => {
  // Of 32 tokens, so that it fills tiles of queries wherever it lies, and sums run in the same order.
  const documents = documentsOf([32, 64, 32]);
  const packed = batchFromDocuments([documents]);
  const all = await withTrainer(MODEL, [packed], (trainer) => trainer.logits(packed));
  for (const [i, start] of [[0, 0], [1, 32], [2, 96]]) {
    const alone = batchFromSequences([documents[i]]);
    const logits = await withTrainer(MODEL, [alone], (trainer) => trainer.logits(alone));
    assertEquals(all.slice(start * MODEL.vocab, start * MODEL.vocab + logits.length), logits);
  }
});

Deno.test("rotary positions restart at each document", () => {
  const { documentStarts } = batchFromDocuments([documentsOf([3, 4]), documentsOf([7])]);
  const positions = Uint32Array.of(1, 2, 3, 6);
  const tables = createRotaryTables(MODEL, positions, 7);
  assertEquals(tables(2), rotaryTable(MODEL, positions));
  assertEquals(tables(2, documentStarts), rotaryTable(MODEL, Uint32Array.of(1, 2, 0, 3, 1, 2, 3, 6)));
});

Deno.test("a batch of documents has their tokens, shifted labels and starts", () => {
  const batch = batchFromDocuments([
    [Uint32Array.of(5, 6, 7), Uint32Array.of(8)],
    [Uint32Array.of(1, 2), Uint32Array.of(3, 4)],
  ]);
  const [none, third] = [IGNORED_LABEL, 2];
  assertEquals(batch.inputs, Uint32Array.of(5, 6, 7, 8, 1, 2, 3, 4));
  assertEquals(batch.labels, Uint32Array.of(6, 7, none, none, 2, none, 4, none));
  assertEquals(batch.documentStarts, Uint32Array.of(0, 0, 0, 3, 0, 0, third, third));
  assertEquals([documentCount(batch), validTokens(batch)], [4, 4]);
  assertEquals(documentCount(batchFromSequences([Uint32Array.of(1, 2), Uint32Array.of(3, 4)])), 2);
});

Deno.test("documents that make no sequence are refused", () => {
  assertThrows(
    () => batchFromDocuments([[Uint32Array.of(1, 2)], [Uint32Array.of(1)]]),
    RangeError,
    "Cannot pack sequence 1 of 1 tokens beside one of 2: lengths must be equal",
  );
  assertThrows(
    () => batchFromDocuments([[Uint32Array.of(1), new Uint32Array(0)]]),
    RangeError,
    "Cannot pack a document of no tokens: it must have at least one",
  );
});

Deno.test("document starts that fit no sequence are refused, with the row", () => {
  const batchOf = (...starts: number[]): TokenBatch => {
    const tokens = new Uint32Array(6);
    return { batch: 2, inputs: tokens, labels: tokens, documentStarts: Uint32Array.from(starts) };
  };
  const train = { seqTokens: 3, packed: true };
  for (const good of [[0, 0, 0, 0, 0, 0], [0, 1, 2, 0, 1, 1], [0, 0, 2, 0, 1, 2]]) {
    checkDocuments(batchOf(...good), train);
  }
  const bad: [number[], string][] = [
    [[0, 0, 0, 1, 1, 1], "Cannot use document start 1 at row 3: it must be 0"],
    [[0, 2, 2, 0, 0, 0], "Cannot use document start 2 at row 1: it must be 0 as in the row before, or 1 to start one"],
    [[0, 1, 0, 0, 0, 0], "Cannot use document start 0 at row 2: it must be 1 as in the row before, or 2 to start one"],
    [[0, 0], "Cannot use 2 document starts for a batch of 2 x 3: every row needs one"],
  ];
  for (const [starts, message] of bad) {
    assertThrows(() => checkDocuments(batchOf(...starts), train), RangeError, message);
  }
  const { documentStarts: _starts, ...plain } = batchOf(0, 0, 0, 0, 0, 0);
  checkDocuments(plain, { seqTokens: 3, packed: false });
  assertThrows(
    () => checkDocuments(plain, train),
    RangeError,
    "Cannot train packed on a batch without document starts",
  );
  assertThrows(
    () => checkDocuments(batchOf(0, 0, 0, 0, 0, 0), { seqTokens: 3, packed: false }),
    RangeError,
    "the training settings must say that it is packed",
  );
});

Deno.test("a trainer refuses starts before any work", async () => {
  const batch = batchFromDocuments([documentsOf([3, 4])]);
  const wrong = { ...batch, documentStarts: Uint32Array.of(0, 0, 0, 5, 5, 5, 5) };
  await withTrainer(MODEL, [batch], async (trainer) => {
    const error = await trainer.gradients([wrong]).then(() => undefined, (reason) => reason);
    assert(error instanceof RangeError && error.message.startsWith("Cannot use document start 5 at row 3"));
  });
});
