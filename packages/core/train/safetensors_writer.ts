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

/** The header is padded with spaces so that tensors start at a multiple of this. */
const ALIGNMENT_BYTES = 8;

/**
 * Writes tensors in their order to a file, replacing it. The file appears whole or not at all: bytes go to a file beside
 * it that is renamed at the end.
 *
 * @throws {RangeError} when a tensor has more or fewer elements than its shape says; errors of the file system are passed on
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, HostTensor>,
  options: { metadata?: Readonly<Record<string, string>> } = {},
): Promise<void> {
  const partial = `${path}.part`;
  const file = await Deno.open(partial, { write: true, create: true, truncate: true });
  try {
    try {
      await writeAll(file, encodeHeader(tensors, options.metadata));
      for (const { data } of tensors.values()) {
        await writeAll(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
    } finally {
      file.close();
    }
    await Deno.rename(partial, path);
  } catch (error) {
    await Deno.remove(partial).catch(() => {});
    throw error;
  }
}

function encodeHeader(tensors: ReadonlyMap<string, HostTensor>, metadata?: Readonly<Record<string, string>>) {
  let end = 0;
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {};
  for (const [name, { shape, data }] of tensors) {
    if (elementCount(shape) !== data.length) {
      throw new RangeError(`Cannot write ${name} of shape [${shape}]: it has ${data.length} elements`);
    }
    const dtype = data instanceof Float32Array ? "F32" : "U32";
    header[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
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
