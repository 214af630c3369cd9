import { assertEquals, assertThrows } from "@std/assert";
import { type Backend, createReferenceBackend, createSingleStrategy, parseTrainConfig, Trainer } from "@mst/core";
import { assertClose } from "../_support/compare.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

const SETTINGS = { seqTokens: 16, clipNorm: 0, mlpChunks: 2, headChunks: 3, learningRate: 1e-2 };

function createTrainer(backend: Backend, model = tinyModel(), settings: Record<string, unknown> = {}): Trainer {
  const train = parseTrainConfig({ ...SETTINGS, ...settings });
  return new Trainer({ backend, strategy: createSingleStrategy(backend), model, train });
}

for (const tiedEmbeddings of [false, true]) {
  const model = tinyModel({ tiedEmbeddings });
  const batches = [1, 2, 3].map((seed) => [randomBatch(model, 16, { seed })]);

  Deno.test(`updates in backward are those after backward, to the bit${tiedEmbeddings ? ", tied" : ""}`, async () => {
    await using backend = createReferenceBackend({ poison: true });
    using after = createTrainer(backend, model);
    using during = createTrainer(backend, model, { optimizerInBackward: true });
    for (const batch of batches) {
      const [expected, actual] = [await after.step(batch), await during.step(batch)];
      assertEquals(actual.loss, expected.loss);
      assertEquals(expected.gradNorm > 0, true);
      // The same squares, added up in another order.
      assertClose([actual.gradNorm], [expected.gradNorm], { relative: 1e-6, what: "norm" });
    }
    assertEquals(await during.logits(batches[0][0]), await after.logits(batches[0][0]));
  });

  Deno.test(`gradients can be taken where updates run in backward${tiedEmbeddings ? ", tied" : ""}`, async () => {
    await using backend = createReferenceBackend({ poison: true });
    using after = createTrainer(backend, model);
    using during = createTrainer(backend, model, { optimizerInBackward: true });
    for (const trainer of [after, during]) await trainer.step(batches[0]);
    const [expected, actual] = [await after.gradients(batches[1]), await during.gradients(batches[1])];
    assertEquals(actual, expected);
    assertEquals((await during.step(batches[1])).loss, (await after.step(batches[1])).loss); // nothing was updated
  });
}

Deno.test("a rank holds the gradients of one group at a time", async () => {
  const model = tinyModel({ layers: 6 });
  await using backend = createReferenceBackend();
  using trainer = createTrainer(backend, model, { optimizerInBackward: true });
  await trainer.step([randomBatch(model, 16)]);
  assertEquals(backend.ledger.live().gradients, 0);
  const largest = 4 *
    Math.max(model.vocab * model.dim + model.dim, 2 * model.dim + 2 * 16 * 16 + 2 * 8 * 16 + 3 * 24 * 16);
  assertEquals(backend.ledger.highest().gradients, largest);
});

Deno.test("an update in backward is refused with clipping or several micro-batches", () => {
  const refused = (values: Record<string, unknown>, message: string) =>
    assertThrows(() => parseTrainConfig({ ...SETTINGS, optimizerInBackward: true, ...values }), RangeError, message);
  refused({ clipNorm: 1 }, "wanted clipNorm 0");
  refused({ accumulate: 2 }, "accumulate 2 micro-batches");
});
