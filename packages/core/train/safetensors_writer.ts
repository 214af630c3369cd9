/**
 * Writing safetensors files.
 *
 * @module
 */

import { elementCount, type Shape } from "../tensor/shape.ts";

/** A tensor on the host: dims and row-major elements, stored as F32 or U32. */
export interface HostTensor {
  /** Dims, outermost first. */
  readonly shape: Shape;
  /** Elements; as many as the dims say. */
  readonly data: Float32Array | Uint32Array;
}

/** Name, element type and dims of a tensor to come. */
export interface TensorHead {
  /** Name in the file. */
  readonly name: string;
  /** How it is stored. */
  readonly dtype: "F32" | "U32";
  /** Dims, outermost first. */
  readonly shape: Shape;
}

/** What a header says besides its tensors. */
export type SafetensorsMetadata = Readonly<Record<string, string>>;

/** The header is padded with spaces so that tensors start at a multiple of this. */
const ALIGNMENT_BYTES = 8;

/** Bytes after which a file is brought to the disk, so that no single wait for it becomes long. */
const SYNC_BYTES = 256 * 2 ** 20;

/** A file whose tensors come one by one, in the order of its header. */
export class SafetensorsWriter implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #path: string;
  readonly #heads: readonly TensorHead[];
  #count = 0;
  #unsyncedBytes = 0;

  private constructor(file: Deno.FsFile, path: string, heads: readonly TensorHead[]) {
    this.#file = file;
    this.#path = path;
    this.#heads = heads;
  }

  /** Creates or empties a file and writes its header; errors of the file system are passed on. */
  static async create(
    path: string,
    heads: readonly TensorHead[],
    { metadata }: { metadata?: SafetensorsMetadata } = {},
  ): Promise<SafetensorsWriter> {
    const file = await Deno.open(path, { write: true, create: true, truncate: true });
    try {
      await writeAll(file, encodeHeader(heads, metadata));
    } catch (error) {
      file.close();
      throw error;
    }
    return new SafetensorsWriter(file, path, heads);
  }

  /**
   * Writes the next tensor.
   *
   * @throws {RangeError} when the header has another one in its place, or one of another size
   */
  async write(name: string, data: Float32Array | Uint32Array): Promise<void> {
    const head = this.#heads[this.#count];
    if (head?.name !== name) {
      throw new RangeError(`Cannot write ${name} to ${this.#path}: wanted ${head?.name ?? "no further tensor"}`);
    }
    assertSize(head, data);
    await writeAll(this.#file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    this.#count++;
    this.#unsyncedBytes += data.byteLength;
    if (this.#unsyncedBytes > SYNC_BYTES) await this.#sync();
  }

  /**
   * Brings all that was written to the disk.
   *
   * @throws {RangeError} when a tensor is missing
   */
  async finish(): Promise<void> {
    const missing = this.#heads[this.#count];
    if (missing) throw new RangeError(`Cannot finish ${this.#path}: ${missing.name} is missing`);
    await this.#sync();
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file.close();
  }

  async #sync(): Promise<void> {
    await this.#file.sync();
    this.#unsyncedBytes = 0;
  }
}

/**
 * Writes tensors in their order to a file, replacing it. The file appears whole or not at all: bytes go to a file beside
 * it that is renamed at the end.
 *
 * @throws {RangeError} when a tensor has more or fewer elements than its shape says; errors of the file system are passed on
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, HostTensor>,
  options: { metadata?: SafetensorsMetadata } = {},
): Promise<void> {
  const heads = Array.from(tensors, ([name, { shape, data }]) => {
    const head: TensorHead = { name, shape, dtype: data instanceof Float32Array ? "F32" : "U32" };
    assertSize(head, data);
    return head;
  });
  const partial = `${path}.part`;
  try {
    {
      using file = await SafetensorsWriter.create(partial, heads, options);
      for (const [name, { data }] of tensors) await file.write(name, data);
    }
    await Deno.rename(partial, path);
  } catch (error) {
    await Deno.remove(partial).catch(() => {});
    throw error;
  }
}

/** Bytes of a file with these tensors. */
export function safetensorsBytes(heads: readonly TensorHead[], metadata?: SafetensorsMetadata): number {
  return encodeHeader(heads, metadata).length + dataBytes(heads);
}

function dataBytes(heads: readonly TensorHead[]): number {
  return heads.reduce((sum, { shape }) => sum + 4 * elementCount(shape), 0);
}

function assertSize({ name, shape }: TensorHead, { length }: Float32Array | Uint32Array): void {
  if (elementCount(shape) !== length) {
    throw new RangeError(`Cannot write ${name} of shape [${shape}]: it has ${length} elements`);
  }
}

function encodeHeader(heads: readonly TensorHead[], metadata?: SafetensorsMetadata): Uint8Array {
  let end = 0;
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {};
  for (const { name, dtype, shape } of heads) {
    const start = end;
    end += 4 * elementCount(shape);
    header[name] = { dtype, shape, data_offsets: [start, end] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = Math.ceil(text.length / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(text, 8);
  return bytes;
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  let count = 0;
  while (count < bytes.length) count += await file.write(bytes.subarray(count));
}
