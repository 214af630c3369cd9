/**
 * Copies of host memory to the device: by the queue, or through kept staging buffers that are mapped for writing.
 *
 * @module
 */

/** Bytes handed to the queue at a time, since it keeps a copy of them until they have arrived. */
const QUEUE_CHUNK_BYTES = 64 * 2 ** 20;

/** Bytes of a staging buffer. */
const STAGING_BYTES = 16 * 2 ** 20;

/**
 * Most staging buffers; while all of them are under way, the queue takes what is written, at a third of the rate. They
 * come back when the event loop turns after the device has come so far, which may be a layer's worth of work later.
 */
const MAX_STAGING_BUFFERS = 64;

/** Writes below this go by the queue, whose cost a byte matters less than that of one more submission. */
const MIN_STAGED_BYTES = 256 * 2 ** 10;

/** A way to write. */
export interface Writes {
  /**
   * Writes bytes behind all that was submitted before; `data` has been read when the call returns, which does not wait.
   *
   * @param offset byte of the buffer, a multiple of 4 like the length of `data`
   */
  write(buffer: GPUBuffer, offset: number, data: Uint8Array): void;
  /** Destroys staging buffers. */
  destroyAll(): void;
}

/** By `GPUQueue.writeBuffer`; what Deno is fastest at, as its mapped ranges are copied twice. */
export class QueueWrites implements Writes {
  readonly #queue: GPUQueue;

  /** @param queue queue of the device */
  constructor(queue: GPUQueue) {
    this.#queue = queue;
  }

  write(buffer: GPUBuffer, offset: number, data: Uint8Array): void {
    for (let start = 0; start < data.length; start += QUEUE_CHUNK_BYTES) {
      const part = data.subarray(start, start + QUEUE_CHUNK_BYTES) as Uint8Array<ArrayBuffer>;
      this.#queue.writeBuffer(buffer, offset + start, part);
      if (start + QUEUE_CHUNK_BYTES < data.length) this.#queue.submit([]);
    }
  }

  destroyAll(): void {}
}

/** Through mapped staging buffers, which come back when the device has copied what is in them. */
export class StagedWrites implements Writes {
  readonly #device: GPUDevice;
  readonly #byQueue: QueueWrites;
  readonly #all: GPUBuffer[] = [];
  /** Mapped staging buffers. */
  readonly #idle: GPUBuffer[] = [];

  /** @param device device whose mapped ranges are its memory */
  constructor(device: GPUDevice) {
    this.#device = device;
    this.#byQueue = new QueueWrites(device.queue);
  }

  write(buffer: GPUBuffer, offset: number, data: Uint8Array): void {
    for (let start = 0; start < data.length; start += STAGING_BYTES) {
      const part = data.subarray(start, start + STAGING_BYTES);
      const staging = part.length < MIN_STAGED_BYTES ? undefined : this.#takeStaging();
      if (staging) this.#send(staging, buffer, offset + start, part);
      else this.#byQueue.write(buffer, offset + start, unshared(part));
    }
  }

  destroyAll(): void {
    for (const staging of this.#all.splice(0)) staging.destroy();
    this.#idle.length = 0;
  }

  #send(staging: GPUBuffer, buffer: GPUBuffer, offset: number, part: Uint8Array): void {
    new Uint8Array(staging.getMappedRange(0, part.length)).set(part);
    staging.unmap();
    const encoder = this.#device.createCommandEncoder();
    encoder.copyBufferToBuffer(staging, 0, buffer, offset, part.length);
    this.#device.queue.submit([encoder.finish()]);
    // A mapping fails with the device or the buffer, whose own errors say more.
    staging.mapAsync(GPUMapMode.WRITE).then(() => this.#idle.push(staging), () => {});
  }

  #takeStaging(): GPUBuffer | undefined {
    const idle = this.#idle.pop();
    if (idle || this.#all.length >= MAX_STAGING_BUFFERS) return idle;
    const made = this.#device.createBuffer({
      label: "copy to the device",
      size: STAGING_BYTES,
      usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.MAP_WRITE,
      mappedAtCreation: true,
    });
    this.#all.push(made);
    return made;
  }
}

/** The same bytes outside shared memory, which ends Dawn's process when its queue is given it. */
function unshared(data: Uint8Array): Uint8Array {
  return data.buffer instanceof SharedArrayBuffer ? data.slice() : data;
}
