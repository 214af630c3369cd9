import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  batchFromPackedWindows,
  BYTE_VOCAB,
  DataSource,
  END_TOKEN,
  IGNORED_LABEL,
  readText,
  type ReadTextOptions,
  type TokenizedText,
} from "@mst/core";
import { withTempDir } from "../_support/temp_dir.ts";

Deno.test("the default text is Moby Dick, as bytes and an end marker", async () => {
  const { name, tokens } = await readText();
  assertEquals(name, "Moby Dick");
  assertEquals(tokens.length, 1204997 + 1);
  assertEquals(tokens.at(-1), END_TOKEN);
  assert(tokens.subarray(0, -1).every((token) => token < 256));
  assertEquals(BYTE_VOCAB, 257);
  const text = new TextDecoder().decode(Uint8Array.from(tokens.subarray(0, -1)));
  assert(text.includes("Call me Ishmael."));
});

Deno.test("a file is read as bytes and an end marker", () =>
  withTempDir(async (folder) => {
    await Deno.writeFile(`${folder}/a.txt`, Uint8Array.of(0, 255, 10));
    assertEquals((await readText(`${folder}/a.txt`)).tokens, Uint16Array.of(0, 255, 10, END_TOKEN));
    await assertRejects(() => readText(`${folder}/b.txt`), TypeError, "b.txt");
    await assertRejects(() => readText(folder), TypeError, "Cannot read the training text");
  }));

/** A file's text as documents, and whether it is packed. */
async function documentsOf(name: string, contents: string | Uint8Array, options: ReadTextOptions = {}) {
  let text: TokenizedText | undefined;
  await withTempDir(async (folder) => {
    const bytes = typeof contents === "string" ? new TextEncoder().encode(contents) : contents;
    await Deno.writeFile(`${folder}/${name}`, bytes);
    text = await readText(`${folder}/${name}`, options);
  });
  const documents: string[] = [];
  const bytes: number[] = [];
  for (const token of text!.tokens) {
    if (token !== END_TOKEN) bytes.push(token);
    else documents.push(new TextDecoder().decode(Uint8Array.from(bytes.splice(0))));
  }
  assertEquals(bytes, [], "the last document has its end");
  return { documents, packed: text!.packed };
}

Deno.test("documents of a plain text lie between blank lines", async () => {
  const text = "\n\none\ntwo\n\n  three\r\n \t\r\nfour\n\n\n \n\nfive\n";
  assertEquals(await documentsOf("a.txt", text, { pack: true }), {
    documents: ["one\ntwo", "  three", "four", "five\n"],
    packed: true,
  });
  assertEquals(await documentsOf("a.txt", text), { documents: [text], packed: false });
});

Deno.test("documents of a plain text lie between separators", async () => {
  const text = "<one>\n\n<<two>---- \n ----three--";
  const split = async (separator: string) => (await documentsOf("a.txt", text, { pack: true, separator })).documents;
  assertEquals(await split("----"), ["<one>\n\n<<two>", "three--"], "nothing but white space is no document");
  assertEquals(await split("<two"), ["<one>\n\n<", ">---- \n ----three--"]);
  assertEquals(await split("no such text"), [text]);
  await assertRejects(() => split(""), RangeError, "Cannot split documents at an empty separator");
});

Deno.test("documents of JSON lines are packed, whatever else a line has", async () => {
  const lines = [
    '{"text": "one\\n\\ntwo", "id": 7}',
    "",
    '\uFEFF{"text":"caf\\u00e9 \u{1F40B}"}\r',
    '{"text": "  "}',
    '{"id": 8, "text": "three"}',
  ];
  for (const end of ["", "\n"]) {
    assertEquals(await documentsOf("a.JSONL", lines.join("\n") + end), {
      documents: ["one\n\ntwo", "caf\u00e9 \u{1F40B}", "three"],
      packed: true,
    });
  }
});

Deno.test("a line that is no document is refused with its number", async () => {
  const good = '{"text": "one"}\n\n';
  for (const bad of ["[1]", "null", "7", '{"text": 7}', '{"texts": "a"}']) {
    const error = await assertRejects(() => documentsOf("a.jsonl", good + bad), TypeError);
    assert(error.message.endsWith('a.jsonl, line 3: it must be a JSON object whose "text" is a string'), error.message);
  }
  await assertRejects(() => documentsOf("a.jsonl", `${good}{"text": "on`), TypeError, "a.jsonl, line 3: ");
  const notUtf8 = Uint8Array.of(...new TextEncoder().encode(`${good}{"text": "`), 0xff, 34, 125);
  await assertRejects(() => documentsOf("a.jsonl", notUtf8), TypeError, "a.jsonl, line 3: ");
});

Deno.test("a batch of packed windows ends documents at their end tokens", () => {
  const [end, none] = [END_TOKEN, IGNORED_LABEL];
  const batch = batchFromPackedWindows([
    Uint32Array.of(1, 2, end, 3, 4, 5, 6),
    Uint32Array.of(end, end, 7, end, 8, 9, end),
  ], END_TOKEN);
  assertEquals(batch.inputs, Uint32Array.of(1, 2, end, 3, 4, 5, end, end, 7, end, 8, 9));
  // A document that goes on in the next sequence still knows its next token.
  assertEquals(batch.labels, Uint32Array.of(2, end, none, 4, 5, 6, none, none, end, none, 9, end));
  assertEquals(batch.documentStarts, Uint32Array.of(0, 0, 0, 3, 3, 3, 0, 1, 2, 2, 4, 4));
});

Deno.test("every token that has a next one in its document is a label once a pass", async () => {
  await withTempDir(async (folder) => {
    const documents = ["a whale", "is", "x", "no fish, says one who should know"];
    await Deno.writeTextFile(`${folder}/a.jsonl`, documents.map((text) => JSON.stringify({ text })).join("\n"));
    const text = await readText(`${folder}/a.jsonl`);
    const tokens = text.tokens.length; // an odd number, so that windows of two leave no label out
    const source = new DataSource(text, { seqTokens: 2, batch: 1, accumulate: 1, seed: 3 });
    let labels = 0;
    for (let step = 0; step < source.windows; step++) {
      const batch = batchFromPackedWindows([source.sequence(step, 0, 0)], END_TOKEN);
      labels += batch.labels.filter((label) => label !== IGNORED_LABEL).length;
    }
    assertEquals([tokens, source.windows], [47, 23]);
    assertEquals(labels, tokens - documents.length);
  });
});
