/**
 * The params of a whole batch in one uniform buffer, written once per submit.
 *
 * @module
 */

import { type KernelParam, MAX_PARAMS } from "./dispatch.ts";

/** Bytes of a slot: the largest alignment of dynamic uniform offsets that WebGPU allows a device to want. */
const SLOT_BYTES = 256;

/** One slot of 256 bytes per dispatch. */
export class UniformSlots {
  /** What kernels bind; the offset of their slot is dynamic. */
  readonly binding: GPUBufferBinding;
  readonly #device: GPUDevice;
  readonly #buffer: GPUBuffer;
  readonly #words: Uint32Array<ArrayBuffer>;
  readonly #floats: Float32Array;
  #count = 0;

  /**
   * @param device device of the buffer
   * @param slots most dispatches of a batch
   */
  constructor(device: GPUDevice, slots: number) {
    this.#device = device;
    this.#buffer = device.createBuffer({
      label: "params",
      size: slots * SLOT_BYTES,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    this.#words = new Uint32Array(slots * MAX_PARAMS);
    this.#floats = new Float32Array(this.#words.buffer);
    this.binding = { buffer: this.#buffer, size: SLOT_BYTES };
  }

  /** Puts the params of a dispatch into the next slot and returns its offset in bytes. */
  push(params: readonly KernelParam[]): number {
    const start = this.#count++ * MAX_PARAMS;
    for (let i = 0; i < params.length; i++) {
      const param = params[i];
      if (typeof param === "number") this.#words[start + i] = param;
      else this.#floats[start + i] = param.f32;
    }
    return start * 4;
  }

  /** Writes the used slots to the device, ahead of the batch that is about to be submitted, and starts afresh. */
  upload(): void {
    if (this.#count === 0) return;
    this.#device.queue.writeBuffer(this.#buffer, 0, this.#words.subarray(0, this.#count * MAX_PARAMS));
    this.#count = 0;
  }
}
