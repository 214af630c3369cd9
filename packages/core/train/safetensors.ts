/**
 * A strict reader of safetensors files.
 *
 * The format (huggingface/safetensors): the header's length as a little-endian u64, a JSON header with dtype, shape and
 * byte range of every tensor, then the bytes. As its reference implementation does, ranges must cover the bytes without
 * a hole or an overlap, so that nothing hides in a file. Tensors are read one by one; the file is never held whole.
 *
 * @module
 */

import { elementCount, type Shape } from "../tensor/shape.ts";
import { type PartRuns, partRuns } from "../sharding/weight_part.ts";

/** A file is not a well-formed safetensors file; the message names the file and what is wrong with it. */
export class SafetensorsError extends Error {
  override readonly name = "SafetensorsError";

  /** What is wrong with the file at `path`. */
  constructor(path: string, detail: string, options?: ErrorOptions) {
    super(`Cannot read ${path}: ${detail}`, options);
  }
}

/** Where and how a tensor is stored. */
export interface SafetensorsEntry {
  /** Element type as the format spells it, such as `F32`. */
  readonly dtype: string;
  /** Dims, outermost first. */
  readonly shape: Shape;
  /** First byte within the data part of the file. */
  readonly startByte: number;
  /** Byte after the last. */
  readonly endByte: number;
}

/** Longest header that the reference implementation accepts. */
export const MAX_HEADER_BYTES = 100_000_000;

const LENGTH_BYTES = 8;

const DTYPE_BYTES: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
};

/** An open safetensors file; closed at the end of a `using` block. */
export class SafetensorsFile implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #dataStart: number;

  private constructor(
    /** Where the file is. */
    readonly path: string,
    file: Deno.FsFile,
    dataStart: number,
    /** Every tensor by name, in the order of the bytes. */
    readonly entries: ReadonlyMap<string, SafetensorsEntry>,
    /** The header's free texts. */
    readonly metadata: Readonly<Record<string, string>>,
  ) {
    this.#file = file;
    this.#dataStart = dataStart;
  }

  /**
   * Opens a file and checks its header.
   *
   * @throws {SafetensorsError} when it is not a well-formed file; errors of `Deno.open` are passed on
   */
  static async open(path: string): Promise<SafetensorsFile> {
    const file = await Deno.open(path, { read: true });
    try {
      const { size } = await file.stat();
      const { text, dataStart } = await readHeader(file, path, size);
      const { entries, metadata } = parseHeader(text, size - dataStart, path);
      return new SafetensorsFile(path, file, dataStart, entries, metadata);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * How a tensor is stored.
   *
   * @throws {SafetensorsError} when the file has no tensor of that name
   */
  entry(name: string): SafetensorsEntry {
    const entry = this.entries.get(name);
    if (!entry) throw new SafetensorsError(this.path, `it has no tensor ${JSON.stringify(name)}`);
    return entry;
  }

  /**
   * A tensor of floats (F32, F16 or BF16) as f32.
   *
   * @param runs runs of elements to read, in row-major order; all when left out
   * @throws {SafetensorsError} when there is none of that name, or it holds something else
   * @throws {RangeError} when it has no such elements
   */
  async readFloats(name: string, runs?: PartRuns): Promise<Float32Array> {
    const { dtype } = this.entry(name);
    if (dtype !== "F32" && dtype !== "F16" && dtype !== "BF16") {
      throw new SafetensorsError(this.path, `${name} is of type ${dtype}, wanted F32, F16 or BF16`);
    }
    const bytes = await this.#read(name, runs);
    if (dtype === "F32") return new Float32Array(bytes.buffer);
    if (dtype === "F16") return Float32Array.from(new Float16Array(bytes.buffer));
    return floatsOfBfloats(new Uint16Array(bytes.buffer));
  }

  /**
   * A tensor of non-negative integers (U32, I32 or I64) as u32, such as token ids.
   *
   * @throws {SafetensorsError} when there is none of that name, it holds something else, or a number does not fit
   */
  async readIntegers(name: string): Promise<Uint32Array> {
    const { dtype } = this.entry(name);
    if (dtype !== "U32" && dtype !== "I32" && dtype !== "I64") {
      throw new SafetensorsError(this.path, `${name} is of type ${dtype}, wanted U32, I32 or I64`);
    }
    const bytes = await this.#read(name);
    if (dtype === "U32") return new Uint32Array(bytes.buffer);
    const signed = dtype === "I32"
      ? new Int32Array(bytes.buffer)
      : Float64Array.from(new BigInt64Array(bytes.buffer), Number);
    return Uint32Array.from(signed, (integer) => {
      if (integer >= 0 && integer <= 0xffffffff) return integer;
      throw new SafetensorsError(this.path, `${name} holds ${integer}, wanted integers from 0 to 4294967295`);
    });
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file.close();
  }

  async #read(name: string, runs?: PartRuns): Promise<Uint8Array<ArrayBuffer>> {
    const { dtype, shape, startByte } = this.entry(name);
    const { start, count, length, stride } = runs ?? partRuns(shape);
    const end = count === 0 ? start : start + (count - 1) * stride + length;
    if (!(start >= 0 && length >= 0 && end <= elementCount(shape))) {
      throw new RangeError(`Cannot read elements ${start} to ${end} of ${name}: it has ${elementCount(shape)}`);
    }
    const elementBytes = DTYPE_BYTES[dtype];
    const runBytes = length * elementBytes;
    const bytes = new Uint8Array(count * runBytes);
    for (let run = 0; run < count; run++) {
      await this.#file.seek(this.#dataStart + startByte + (start + run * stride) * elementBytes, Deno.SeekMode.Start);
      const missing = runBytes - await fill(this.#file, bytes.subarray(run * runBytes, (run + 1) * runBytes));
      if (missing > 0) throw new SafetensorsError(this.path, `it ends ${missing} bytes before the end of ${name}`);
    }
    return bytes;
  }
}

async function readHeader(
  file: Deno.FsFile,
  path: string,
  size: number,
): Promise<{ text: string; dataStart: number }> {
  const prefix = new Uint8Array(LENGTH_BYTES);
  if (await fill(file, prefix) < LENGTH_BYTES) {
    throw new SafetensorsError(path, `it has ${size} bytes, and the length of the header alone takes ${LENGTH_BYTES}`);
  }
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw new SafetensorsError(path, `its header claims ${length} bytes, the limit is ${MAX_HEADER_BYTES}`);
  }
  const dataStart = LENGTH_BYTES + Number(length);
  if (dataStart > size) {
    throw new SafetensorsError(path, `its header claims ${length} bytes, but only ${size - LENGTH_BYTES} follow`);
  }
  const header = new Uint8Array(Number(length));
  await fill(file, header);
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(header), dataStart };
  } catch (cause) {
    throw new SafetensorsError(path, "its header is not UTF-8", { cause });
  }
}

function parseHeader(
  text: string,
  dataBytes: number,
  path: string,
): { entries: Map<string, SafetensorsEntry>; metadata: Record<string, string> } {
  if (!text.startsWith("{")) throw new SafetensorsError(path, "its header does not start with {");
  let header: Record<string, unknown>;
  try {
    header = JSON.parse(text);
  } catch (cause) {
    throw new SafetensorsError(path, "its header is not JSON", { cause });
  }
  const { __metadata__: metadata = {}, ...tensors } = header;
  if (!isTextRecord(metadata)) throw new SafetensorsError(path, "its __metadata__ is not a record of texts");
  const entries = Object.entries(tensors)
    .map(([name, value]) => [name, parseEntry(name, value, path)] as const)
    .sort(([, a], [, b]) => a.startByte - b.startByte || a.endByte - b.endByte);
  assertCovered(entries, dataBytes, path);
  return { entries: new Map(entries), metadata };
}

function parseEntry(name: string, value: unknown, path: string): SafetensorsEntry {
  const { dtype, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>;
  const refuse = (detail: string) => new SafetensorsError(path, `${name} ${detail}`);
  if (typeof dtype !== "string" || DTYPE_BYTES[dtype] === undefined) {
    throw refuse(`is of type ${JSON.stringify(dtype)}, wanted one of ${Object.keys(DTYPE_BYTES).join(", ")}`);
  }
  if (!isNaturals(shape)) throw refuse(`has shape ${JSON.stringify(shape)}, wanted a list of non-negative integers`);
  if (!isNaturals(offsets) || offsets.length !== 2) {
    throw refuse(`has data_offsets ${JSON.stringify(offsets)}, wanted [start, end]`);
  }
  const [startByte, endByte] = offsets;
  const wanted = elementCount(shape) * DTYPE_BYTES[dtype];
  if (endByte - startByte !== wanted) {
    throw refuse(`of type ${dtype} and shape [${shape}] takes ${wanted} bytes, but has ${endByte - startByte}`);
  }
  return { dtype, shape, startByte, endByte };
}

/** Refuses holes and overlaps; a name that appears twice in the header leaves a hole, too. */
function assertCovered(entries: (readonly [string, SafetensorsEntry])[], dataBytes: number, path: string): void {
  let end = 0;
  for (const [name, { startByte, endByte }] of entries) {
    if (startByte < end) throw new SafetensorsError(path, `${name} overlaps the tensor before it`);
    if (startByte > end) {
      throw new SafetensorsError(path, `${startByte - end} bytes before ${name} belong to no tensor`);
    }
    end = endByte;
  }
  if (end > dataBytes) {
    throw new SafetensorsError(path, `its tensors take ${end} bytes, but only ${dataBytes} follow the header`);
  }
  if (end < dataBytes) throw new SafetensorsError(path, `the last ${dataBytes - end} bytes belong to no tensor`);
}

/** Reads until the array is full or the file ends; returns the bytes read. */
async function fill(file: Deno.FsFile, bytes: Uint8Array): Promise<number> {
  let count = 0;
  while (count < bytes.length) {
    const read = await file.read(bytes.subarray(count));
    if (read === null) break;
    count += read;
  }
  return count;
}

/** A bfloat16 is the high half of the float with the same value. */
function floatsOfBfloats(halves: Uint16Array): Float32Array {
  const bits = Uint32Array.from(halves, (half) => half << 16);
  return new Float32Array(bits.buffer);
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((each) => Number.isSafeInteger(each) && each >= 0);
}

function isTextRecord(value: unknown): value is Record<string, string> {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    Object.values(value).every((each) => typeof each === "string");
}
