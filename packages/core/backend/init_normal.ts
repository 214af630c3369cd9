/**
 * The hash behind `Ops.initNormal`, as plain TypeScript; WGSL says the same.
 *
 * @module
 */

/** Mean of the sum of eight 16-bit uniforms. */
export const UNIFORM_SUM_MEAN = 8 * 65535 / 2;

/** Standard deviation of the sum of eight 16-bit uniforms: √(8 · (65536² − 1) / 12). */
export const UNIFORM_SUM_STD = Math.sqrt(8 * (65536 ** 2 - 1) / 12);

/** Mixes the bits of a u32 (the finaliser of MurmurHash3, Appleby, public domain). */
export function mixBits(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/**
 * Sum of the eight 16-bit uniforms of one element, an integer.
 *
 * @param seed seed of the run, u32
 * @param stream number of the tensor, u32
 * @param index element within the tensor, below 2⁵³; its high half is mixed in, so large tensors do not repeat
 */
export function uniformSum(seed: number, stream: number, index: number): number {
  const low = index >>> 0;
  const high = Math.floor(index / 2 ** 32) >>> 0;
  let state = mixBits(mixBits(mixBits(seed ^ 0x9e3779b9) ^ stream) ^ high);
  state = mixBits(state ^ low);
  let sum = 0;
  for (let i = 1; i <= 4; i++) {
    const bits = mixBits((state + Math.imul(i, 0x9e3779b9)) >>> 0);
    sum += (bits & 0xffff) + (bits >>> 16);
  }
  return sum;
}
