import { assert, assertEquals, assertRejects } from "@std/assert";
import { SafetensorsError, SafetensorsFile } from "../../packages/core/train/safetensors.ts";
import { writeSafetensors } from "../../packages/core/train/safetensors_writer.ts";
import { withTempDir } from "../_support/temp_dir.ts";

/** A file of a header and data bytes; the header is written as it is, well-formed or not. */
function fileOf(header: unknown, data: Uint8Array, claimedBytes?: bigint): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, claimedBytes ?? BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

function entry(dtype: string, shape: unknown, start: number, end: number): Record<string, unknown> {
  return { dtype, shape, data_offsets: [start, end] };
}

async function assertRefused(folder: string, bytes: Uint8Array, message: string): Promise<void> {
  const path = `${folder}/bad.safetensors`;
  await Deno.writeFile(path, bytes);
  await assertRejects(() => SafetensorsFile.open(path), SafetensorsError, message);
}

Deno.test("tensors come back as they were written", () =>
  withTempDir(async (folder) => {
    const path = `${folder}/a.safetensors`;
    const weights = Float32Array.from([1, -2.5, 1e-30, NaN, Infinity, 0]);
    await writeSafetensors(
      path,
      new Map([
        ["weights", { shape: [2, 3], data: weights }],
        ["nothing", { shape: [0, 4], data: new Float32Array(0) }],
        ["ids", { shape: [3], data: Uint32Array.from([0, 7, 0xffffffff]) }],
        ["scalar", { shape: [], data: Float32Array.of(4) }],
      ]),
      { metadata: { note: "ümlaut" } },
    );
    using file = await SafetensorsFile.open(path);
    assertEquals(file.metadata, { note: "ümlaut" });
    assertEquals([...file.entries.keys()].sort(), ["ids", "nothing", "scalar", "weights"]);
    assertEquals(file.entry("weights"), { dtype: "F32", shape: [2, 3], startByte: 0, endByte: 24 });
    assertEquals(await file.readFloats("weights"), weights);
    assertEquals(await file.readIntegers("ids"), Uint32Array.from([0, 7, 0xffffffff]));
    assertEquals(await file.readFloats("scalar"), Float32Array.of(4));
    assertEquals((await file.readFloats("nothing")).length, 0);
    assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["a.safetensors"]);
  }));

Deno.test("half floats, bfloats and signed integers are converted", () =>
  withTempDir(async (folder) => {
    const data = new Uint8Array(36);
    const view = new DataView(data.buffer);
    view.setUint16(0, 0x3c00, true); // 1
    view.setUint16(2, 0xc100, true); // -2.5
    view.setUint16(4, 0x0001, true); // 2^-24, the smallest subnormal
    view.setUint16(6, 0x7c00, true); // infinity
    view.setUint16(8, 0x3f80, true); // 1
    view.setUint16(10, 0xc020, true); // -2.5
    view.setInt32(12, 5, true);
    view.setInt32(16, -1, true);
    view.setBigInt64(20, 6n, true);
    view.setBigInt64(28, 2n ** 32n, true);
    const header = {
      half: entry("F16", [4], 0, 8),
      bfloat: entry("BF16", [2], 8, 12),
      five: entry("I32", [1], 12, 16),
      negative: entry("I32", [1], 16, 20),
      six: entry("I64", [1], 20, 28),
      long: entry("I64", [1], 28, 36),
    };
    await Deno.writeFile(`${folder}/a`, fileOf(header, data));
    using file = await SafetensorsFile.open(`${folder}/a`);
    assertEquals(await file.readFloats("half"), Float32Array.of(1, -2.5, 2 ** -24, Infinity));
    assertEquals(await file.readFloats("bfloat"), Float32Array.of(1, -2.5));
    assertEquals(await file.readIntegers("five"), Uint32Array.of(5));
    assertEquals(await file.readIntegers("six"), Uint32Array.of(6));
    await assertRejects(() => file.readIntegers("negative"), SafetensorsError, "holds -1");
    await assertRejects(() => file.readIntegers("long"), SafetensorsError, "holds 4294967296");
    await assertRejects(() => file.readFloats("five"), SafetensorsError, "five is of type I32");
    await assertRejects(() => file.readIntegers("half"), SafetensorsError, "half is of type F16");
    await assertRejects(() => file.readFloats("other"), SafetensorsError, 'no tensor "other"');
  }));

Deno.test("malformed files are refused with what is wrong", () =>
  withTempDir(async (folder) => {
    const one = { a: entry("F32", [2], 0, 8) };
    const data = new Uint8Array(8);
    await assertRefused(folder, new Uint8Array(3), "it has 3 bytes");
    await assertRefused(folder, fileOf(one, data, 2n ** 62n), "claims 4611686018427387904 bytes, the limit is");
    await assertRefused(folder, fileOf(one, data, 1000n), "claims 1000 bytes, but only");
    await assertRefused(folder, fileOf("[]", data), "does not start with {");
    await assertRefused(folder, fileOf("{]", data), "not JSON");
    await assertRefused(folder, fileOf({ ...one, __metadata__: { a: 1 } }, data), "__metadata__");
    await assertRefused(folder, fileOf({ a: null }, data), "a is of type undefined");
    await assertRefused(folder, fileOf({ a: entry("F31", [2], 0, 8) }, data), 'a is of type "F31"');
    await assertRefused(folder, fileOf({ a: entry("F32", [-2], 0, 8) }, data), "a has shape [-2]");
    await assertRefused(folder, fileOf({ a: entry("F32", [2], 8, 0) }, data), "but has -8");
    await assertRefused(folder, fileOf({ a: entry("F32", [3], 0, 8) }, data), "takes 12 bytes, but has 8");
    await assertRefused(folder, fileOf({ a: entry("F32", [2 ** 40, 2 ** 40], 0, 8) }, data), "but has 8");
    await assertRefused(folder, fileOf({ a: { dtype: "F32", shape: [2] } }, data), "data_offsets");
    const overlap = { a: entry("F32", [2], 0, 8), b: entry("F32", [1], 4, 8) };
    await assertRefused(folder, fileOf(overlap, data), "b overlaps");
    await assertRefused(folder, fileOf({ a: entry("F32", [1], 4, 8) }, data), "4 bytes before a belong to no tensor");
    await assertRefused(folder, fileOf(one, new Uint8Array(7)), "take 8 bytes, but only 7 follow");
    await assertRefused(folder, fileOf(one, new Uint8Array(9)), "last 1 bytes belong to no tensor");
    const twice = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' +
      '"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}';
    await assertRefused(folder, fileOf(twice, data), "4 bytes before a belong to no tensor");
  }));

Deno.test("a file that shrinks after it was opened is refused", () =>
  withTempDir(async (folder) => {
    const path = `${folder}/a`;
    const bytes = fileOf({ a: entry("F32", [2], 0, 8) }, new Uint8Array(8));
    await Deno.writeFile(path, bytes);
    using file = await SafetensorsFile.open(path);
    await Deno.truncate(path, bytes.length - 3);
    await assertRejects(() => file.readFloats("a"), SafetensorsError, "ends 3 bytes before the end of a");
  }));

Deno.test("a tensor whose data does not fit its shape is not written", () =>
  withTempDir(async (folder) => {
    const tensors = new Map([["a", { shape: [3], data: new Float32Array(2) }]]);
    await assertRejects(() => writeSafetensors(`${folder}/a`, tensors), RangeError, "it has 2 elements");
    assert([...Deno.readDirSync(folder)].length === 0);
  }));
