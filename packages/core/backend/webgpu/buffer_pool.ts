/**
 * Keeps freed GPU buffers for reuse, since creating them is slow, within a bound on the memory so reserved.
 *
 * @module
 */

/** Share of the peak of live bytes that may be reserved. */
const RESERVED_SHARE = 1.0625;

/** Bytes that may be reserved beyond that share. */
const RESERVED_SLACK_BYTES = 64 * 2 ** 20;

/** Smallest buffer. */
const SMALLEST_BYTES = 256;

/** A GPU buffer that the pool made. */
export interface PooledBuffer {
  /** The buffer. */
  readonly gpu: GPUBuffer;
  /** Number that tells buffers of one pool apart; never used twice. */
  readonly id: number;
  /** Bytes of the buffer, a multiple of 16. */
  readonly bytes: number;
}

/** What the pool asks of the device. */
export interface BufferSource {
  /** Largest buffer. */
  readonly maxBufferBytes: number;
  /** Makes a buffer; `what` names its user in an error. */
  create(bytes: number, what: () => string): GPUBuffer;
  /** Destroys a buffer once nothing that is encoded uses it. */
  destroy(buffer: PooledBuffer): void;
}

/** From here on, what sizes round up to weighs more than what they have in common. */
const LARGE_BYTES = 256 * 2 ** 20;

/**
 * Bytes of the buffer that serves a request: eight sizes per power of two, so at most an eighth is wasted and buffers
 * of similar requests serve one another; 64 sizes of large buffers, of which at most a 64th is wasted.
 */
export function sizeClass(bytes: number): number {
  if (bytes <= SMALLEST_BYTES) return SMALLEST_BYTES;
  const step = 2 ** (Math.ceil(Math.log2(bytes)) - (bytes > LARGE_BYTES ? 7 : 4));
  return Math.ceil(bytes / step) * step;
}

/**
 * Free lists of buffers by size class. Of the free buffers of a class the one made first serves a request, so that every
 * step of training, which allocates and frees in the same order, gets the same buffers, and what is cached by buffer
 * stays of use.
 */
export class BufferPool {
  readonly #source: BufferSource;
  /** Free buffers by size class, the one made first at the end. */
  readonly #free = new Map<number, PooledBuffer[]>();
  /** Buffers that exist, in use or kept. */
  readonly #all = new Set<PooledBuffer>();
  /** Cached buffers, least recently freed first. */
  readonly #cached = new Set<PooledBuffer>();
  #nextId = 0;
  #liveBytes = 0;
  #peakLiveBytes = 0;
  #cachedBytes = 0;
  #peakReservedBytes = 0;

  /** @param source makes and destroys the buffers */
  constructor(source: BufferSource) {
    this.#source = source;
  }

  /** Bytes of buffers in use. */
  get liveBytes(): number {
    return this.#liveBytes;
  }

  /** Bytes of buffers kept for reuse. */
  get cachedBytes(): number {
    return this.#cachedBytes;
  }

  /** Most bytes reserved from the device so far, in use or kept. */
  get peakReservedBytes(): number {
    return this.#peakReservedBytes;
  }

  /**
   * A buffer of at least `bytes` bytes, of undefined contents.
   *
   * @param what names the user in an error, such as `allocate a weights tensor of shape [3]`
   * @throws {RangeError} when the device has no buffer of that size
   */
  acquire(bytes: number, what: () => string): PooledBuffer {
    const largest = Math.floor(this.#source.maxBufferBytes / 16) * 16;
    if (bytes > largest) {
      throw new RangeError(`Cannot ${what()}: ${bytes} bytes are more than the largest buffer of ${largest} bytes`);
    }
    const wanted = Math.min(sizeClass(bytes), largest);
    this.#liveBytes += wanted;
    this.#peakLiveBytes = Math.max(this.#peakLiveBytes, this.#liveBytes);
    const reused = this.#free.get(wanted)?.pop();
    if (reused) {
      this.#cached.delete(reused);
      this.#cachedBytes -= wanted;
      return reused;
    }
    this.#evictFor();
    this.#peakReservedBytes = Math.max(this.#peakReservedBytes, this.#liveBytes + this.#cachedBytes);
    const made = { gpu: this.#source.create(wanted, what), id: this.#nextId++, bytes: wanted };
    this.#all.add(made);
    return made;
  }

  /** Takes back a buffer; work that is encoded already may still use it. */
  release(buffer: PooledBuffer): void {
    this.#liveBytes -= buffer.bytes;
    this.#cachedBytes += buffer.bytes;
    this.#cached.add(buffer);
    const list = this.#free.get(buffer.bytes);
    if (!list) this.#free.set(buffer.bytes, [buffer]);
    else {
      const after = list.findLastIndex(({ id }) => id > buffer.id);
      list.splice(after + 1, 0, buffer);
    }
  }

  /** Destroys all buffers that are kept for reuse. */
  clear(): void {
    for (const buffer of this.#cached) this.#drop(buffer);
  }

  /** Destroys all buffers, also those in use; the pool is of no use afterwards. */
  destroyAll(): void {
    for (const { gpu } of this.#all) gpu.destroy();
    this.#all.clear();
  }

  /** Destroys the least recently freed buffers until what is live, with the buffer about to be made, stays in bounds. */
  #evictFor(): void {
    const limit = this.#peakLiveBytes * RESERVED_SHARE + RESERVED_SLACK_BYTES;
    for (const buffer of this.#cached) {
      if (this.#liveBytes + this.#cachedBytes <= limit) return;
      this.#drop(buffer);
    }
  }

  #drop(buffer: PooledBuffer): void {
    const list = this.#free.get(buffer.bytes)!;
    list.splice(list.indexOf(buffer), 1);
    this.#cached.delete(buffer);
    this.#cachedBytes -= buffer.bytes;
    this.#all.delete(buffer);
    this.#source.destroy(buffer);
  }
}
