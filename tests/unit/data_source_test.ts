import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { DataSource, type TokenizedText } from "@mst/core";

const OPTIONS = { seqTokens: 4, batch: 1, accumulate: 1, seed: 1 };

function textOf(length: number): TokenizedText {
  return { name: "text", tokens: Uint16Array.from({ length }, (_, i) => i), packed: false };
}

/** First tokens of the sequences of one pass; with {@linkcode textOf} also their positions. */
function starts(source: DataSource, pass: number): number[] {
  return Array.from({ length: source.windows }, (_, i) => source.sequence(pass * source.windows + i, 0, 0)[0]);
}

Deno.test("every window comes up once a pass, and passes differ", () => {
  const source = new DataSource(textOf(43), OPTIONS);
  assertEquals(source.windows, 10);
  const passes = [0, 1, 2].map((pass) => starts(source, pass));
  for (const pass of passes) {
    const sorted = pass.toSorted((a, b) => a - b);
    assert(sorted[0] <= 2, "the first window starts within the tokens that are left over");
    assertEquals(sorted, sorted.map((_, i) => sorted[0] + 4 * i));
    assertNotEquals(pass, sorted);
  }
  assertNotEquals(passes[0], passes[1]);
  assert(new Set(passes.map((pass) => Math.min(...pass))).size > 1, "passes cut the text at different places");
});

Deno.test("a sequence is S + 1 tokens that follow each other", () => {
  const source = new DataSource(textOf(43), OPTIONS);
  for (let step = 0; step < 30; step++) {
    const sequence = source.sequence(step, 0, 0);
    assertEquals(sequence, Uint32Array.from({ length: 5 }, (_, i) => sequence[0] + i));
  }
});

Deno.test("the order is the same however it is dealt into batches and asked for", () => {
  const flat = new DataSource(textOf(101), OPTIONS);
  const dealt = new DataSource(textOf(101), { ...OPTIONS, batch: 2, accumulate: 3 });
  const numbers = Array.from({ length: 60 }, (_, i) => i);
  for (const number of numbers.toReversed()) {
    const [step, microBatch, index] = [Math.floor(number / 6), Math.floor(number / 2) % 3, number % 2];
    assertEquals(dealt.sequence(step, microBatch, index), flat.sequence(number, 0, 0));
  }
});

Deno.test("the seed decides the order", () => {
  const orders = [1, 1, 2].map((seed) => starts(new DataSource(textOf(101), { ...OPTIONS, seed }), 0));
  assertEquals(orders[0], orders[1]);
  assertNotEquals(orders[0], orders[2]);
});

Deno.test("a text of exactly one sequence is enough, a shorter one is refused with both counts", () => {
  assertEquals(new DataSource(textOf(5), OPTIONS).sequence(7, 0, 0), Uint32Array.of(0, 1, 2, 3, 4));
  assertThrows(
    () => new DataSource(textOf(4), OPTIONS),
    RangeError,
    "Cannot train on sequences of 4 tokens of text: it has 4 tokens, at least 5 are needed",
  );
});
