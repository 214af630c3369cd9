/**
 * Numbers of 16 bits on the host: IEEE 754 binary16 (f16) and bfloat16 (bf16, the upper half of an f32).
 *
 * @module
 */

/** Element types of 16 bits. */
export type HalfDType = "f16" | "bf16";

/** Bits of numbers, rounded to the nearest, ties to even; beyond the largest one, infinity. */
export function toHalfBits(values: Float32Array, dtype: HalfDType): Uint16Array<ArrayBuffer> {
  const bits = new Uint16Array(values.length);
  writeHalves(values, bits, dtype);
  return bits;
}

/** As {@linkcode toHalfBits}, into an array of as many bits. */
export function writeHalves(values: Float32Array, bits: Uint16Array, dtype: HalfDType): void {
  if (dtype === "f16") return new Float16Array(bits.buffer, bits.byteOffset, bits.length).set(values);
  const words = wordsOf(values);
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    const isNaN = (word & 0x7fffffff) > 0x7f800000;
    bits[i] = isNaN ? 0x7fc0 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
}

/** Numbers of bits, exactly. */
export function fromHalfBits(bits: Uint16Array, dtype: HalfDType): Float32Array<ArrayBuffer> {
  const values = new Float32Array(bits.length);
  readHalves(bits, values, dtype);
  return values;
}

/** As {@linkcode fromHalfBits}, into an array of as many numbers. */
export function readHalves(bits: Uint16Array, values: Float32Array, dtype: HalfDType): void {
  if (dtype === "f16") return values.set(new Float16Array(bits.buffer, bits.byteOffset, bits.length));
  const words = wordsOf(values);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i] << 16;
}

/** Adds numbers of f16 that lie in words: `into` becomes the sum, rounded to the nearest; it may be one of the terms. */
export function addHalves(left: Float32Array, right: Float32Array, into: Float32Array): void {
  const [x, y, sum] = [left, right, into].map(({ buffer, byteOffset, length }) =>
    new Float16Array(buffer, byteOffset, 2 * length)
  );
  for (let i = 0; i < sum.length; i++) sum[i] = x[i] + y[i];
}

function wordsOf({ buffer, byteOffset, length }: Float32Array): Uint32Array {
  return new Uint32Array(buffer, byteOffset, length);
}
