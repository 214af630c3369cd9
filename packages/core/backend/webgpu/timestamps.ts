/**
 * Times compute passes with timestamp queries: whole ones, or one per dispatch to add them up by kernel.
 *
 * @module
 */

import type { KernelTime } from "../backend.ts";
import { type ReadMapping, type StagedBytes } from "./read_mapping.ts";

const TIMESTAMP_BYTES = 8;

/** A batch whose timestamps are on their way to the host. */
interface PendingBatch extends StagedBytes {
  readonly kernels: readonly string[];
}

/** Timestamps of the dispatches of one batch at a time, and the totals by kernel. */
export class Timestamps {
  readonly #device: GPUDevice;
  readonly #queries: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #idle: GPUBuffer[] = [];
  readonly #mapping: ReadMapping;
  readonly #bytes: number;
  #pending: PendingBatch[] = [];
  #kernels: string[] = [];
  #totals = new Map<string, { dispatches: number; totalMs: number }>();
  #busyMs = 0;

  /**
   * @param device device with the feature timestamp-query
   * @param mapping how its staging buffers are mapped
   * @param batchDispatches most passes between two calls of {@linkcode Timestamps.resolve}
   * @param perKernel whether every dispatch gets a pass of its own
   */
  constructor(device: GPUDevice, mapping: ReadMapping, batchDispatches: number, readonly perKernel: boolean) {
    this.#device = device;
    this.#mapping = mapping;
    this.#bytes = 2 * batchDispatches * TIMESTAMP_BYTES;
    this.#queries = device.createQuerySet({ type: "timestamp", count: 2 * batchDispatches });
    this.#resolved = device.createBuffer({
      label: "timestamps",
      size: this.#bytes,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
  }

  /** What a compute pass writes at its beginning and end; `kernel` is its dispatch, or the first of them. */
  writes(kernel: string): GPUComputePassTimestampWrites {
    const first = 2 * this.#kernels.push(kernel) - 2;
    return { querySet: this.#queries, beginningOfPassWriteIndex: first, endOfPassWriteIndex: first + 1 };
  }

  /** Encodes commands that no compute pass holds, such as copies, between two empty passes that mark their time. */
  bracket(name: string, encoder: GPUCommandEncoder, encode: (encoder: GPUCommandEncoder) => void): void {
    const { querySet, beginningOfPassWriteIndex, endOfPassWriteIndex } = this.writes(name);
    encoder.beginComputePass({
      timestampWrites: { querySet, endOfPassWriteIndex: beginningOfPassWriteIndex },
    }).end();
    encode(encoder);
    encoder.beginComputePass({
      timestampWrites: { querySet, beginningOfPassWriteIndex: endOfPassWriteIndex },
    }).end();
  }

  /** Encodes a copy of the batch's timestamps towards the host, as the last command of the batch. */
  resolve(encoder: GPUCommandEncoder): void {
    if (this.#kernels.length === 0) return;
    const staging = this.#idle.pop() ?? this.#device.createBuffer({
      label: "timestamps for the host",
      size: this.#bytes,
      usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    });
    const bytes = 2 * this.#kernels.length * TIMESTAMP_BYTES;
    encoder.resolveQuerySet(this.#queries, 0, 2 * this.#kernels.length, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, staging, 0, bytes);
    this.#pending.push({ staging, total: bytes, kernels: this.#kernels });
    this.#kernels = [];
  }

  /** Waits for all submitted batches and adds their times to the totals. */
  async collect(): Promise<void> {
    const batches = this.#pending;
    this.#pending = [];
    await this.#mapping.map(batches);
    for (const { staging, total, kernels } of batches) {
      const times = new BigUint64Array(staging.getMappedRange(0, total));
      kernels.forEach((kernel, i) => this.#add(kernel, Number(times[2 * i + 1] - times[2 * i]) / 1e6));
      staging.unmap();
      this.#idle.push(staging);
    }
  }

  /** The totals, longest first; counting starts afresh. */
  take(): KernelTime[] {
    const totals = this.#totals;
    this.#totals = new Map();
    return Array.from(totals, ([kernel, total]) => ({ kernel, ...total })).sort((a, b) => b.totalMs - a.totalMs);
  }

  /** Time of all passes since the last call, in milliseconds. */
  takeBusyMs(): number {
    const busyMs = this.#busyMs;
    this.#busyMs = 0;
    return busyMs;
  }

  #add(kernel: string, ms: number): void {
    this.#busyMs += ms;
    if (!this.perKernel) return;
    const total = this.#totals.get(kernel);
    if (!total) this.#totals.set(kernel, { dispatches: 1, totalMs: ms });
    else {
      total.dispatches++;
      total.totalMs += ms;
    }
  }
}
