/**
 * The process group in a worker: a thread of its own sends, receives and sums, also while the caller's thread is busy or
 * waits for the device.
 *
 * @module
 */
import { checkConnectOptions, type ConnectOptions } from "./connect_options.ts";
import { PeerError, type PeerFailure, type PeerOperation } from "./errors.ts";
import type { ProcessGroup, TransportStats } from "./process_group.ts";
import { connectLanes } from "./lane_group.ts";
import { connectProcessGroup } from "./rendezvous.ts";
import { isShared, SharedMemory } from "./shared_memory.ts";
import { StatsCounter } from "./stats.ts";
import {
  type ConnectCallback,
  type FromWorker,
  receivedError,
  sendableError,
  type ToWorker,
  type TrafficCounts,
  type WorkerCall,
  type WorkerMethod,
} from "./worker_messages.ts";

type Bytes = Uint8Array<ArrayBuffer>;
type Arguments<Method extends WorkerMethod> = Parameters<ProcessGroup[Method]>;
type Result<Method extends WorkerMethod> = Awaited<ReturnType<ProcessGroup[Method]>>;

/** Options of {@linkcode connectWorkerGroup}. */
export interface WorkerGroupOptions extends ConnectOptions {
  /**
   * Workers of this rank, the same number on all. Each has sockets of its own and carries out a share of the calls, so
   * that more than one pays where there are cores for them and messages are long. 1 by default.
   */
  readonly workers?: number;
}

/**
 * As `connectProcessGroup`, with the group in a worker. Arrays in shared memory are sent, and summed in place, where they
 * lie; others are copied there first. What is received comes without a copy.
 *
 * Peers get their answers whatever this thread does, so that a thread which hangs is found after twice the timeout, as
 * one that lives but sends nothing. A run of one rank, which exchanges nothing, gets no worker.
 *
 * The process needs the permissions to read this folder and to use the network.
 *
 * @throws what `connectProcessGroup` throws, and a RangeError for a number of workers that makes no sense
 */
export async function connectWorkerGroup(
  { workers = 1, ...options }: WorkerGroupOptions,
): Promise<ProcessGroup> {
  checkConnectOptions(options);
  if (!Number.isInteger(workers) || workers < 1) {
    throw new RangeError(`Cannot exchange through ${workers} workers: wanted 1 or more`);
  }
  if (options.size === 1) return await connectProcessGroup(options);
  return await connectLanes(connectWorker, options, workers);
}

async function connectWorker(options: ConnectOptions): Promise<ProcessGroup> {
  // deno-lint-ignore no-undef
  const worker = new Worker(import.meta.resolve("./worker_main.ts"), { type: "module", name: "transport" });
  const group = new WorkerGroup(worker, options);
  try {
    await group.connected;
    return group;
  } catch (error) {
    worker.terminate();
    throw error;
  }
}

/** A call that the worker has not answered. */
interface PendingCall {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

class WorkerGroup implements ProcessGroup {
  readonly rank: number;
  readonly size: number;
  // deno-lint-ignore no-undef
  readonly #worker: Worker;
  readonly #options: ConnectOptions;
  readonly #connected = Promise.withResolvers<void>();
  readonly #disconnected = Promise.withResolvers<void>();
  readonly memory = new SharedMemory();
  readonly #collectives = new StatsCounter();
  readonly #controller = new AbortController();
  readonly #pending = new Map<number, PendingCall>();
  #counts: TrafficCounts = { bytesSent: 0, bytesReceived: 0, messagesSent: 0 };
  #step = 0;
  #calls = 0;
  #closed: Promise<void> | undefined;
  /** What every call is rejected with once there is no worker to ask. */
  #gone: ((operation: PeerOperation) => Error) | undefined;

  // deno-lint-ignore no-undef
  constructor(worker: Worker, options: ConnectOptions) {
    this.rank = options.rank;
    this.size = options.size;
    this.#worker = worker;
    this.#options = options;
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.#take(data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.#crash(new Error(`Cannot go on without the worker of the transport: ${event.message}`));
    };
    const callbacks = (Object.keys(options) as (keyof ConnectOptions)[])
      .filter((name) => typeof options[name] === "function") as ConnectCallback[];
    const plain = { ...options };
    for (const name of callbacks) delete plain[name];
    this.#tell({ type: "connect", options: plain, callbacks });
  }

  /** Resolves once this rank is linked to every other. */
  get connected(): Promise<void> {
    return this.#connected.promise;
  }

  get step(): number {
    return this.#step;
  }

  set step(step: number) {
    this.#step = step;
    this.#tell({ type: "step", step });
  }

  get stats(): TransportStats {
    return { ...this.#collectives.snapshot(), ...this.#counts };
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  send(to: number, data: Uint8Array, label: string): Promise<void> {
    return this.#lending([data], ([shared]) => this.#call("send", [to, shared, label]));
  }

  recv(from: number, label: string): Promise<Bytes> {
    return this.#call("recv", [from, label]);
  }

  allGather(data: Uint8Array): Promise<Bytes[]> {
    return this.#lending([data], ([shared]) => this.#collective("allGather", [shared]));
  }

  reduceScatter(data: Float32Array): Promise<Float32Array<ArrayBuffer>> {
    return this.#lending([data], ([shared]) => this.#collective("reduceScatter", [shared]));
  }

  allReduce(data: Float32Array): Promise<void> {
    return this.#lending([data], async ([shared]) => {
      await this.#collective("allReduce", [shared]);
      if (shared !== data) data.set(shared);
    });
  }

  allToAll(parts: readonly Uint8Array[]): Promise<Bytes[]> {
    return this.#lending(parts, (shared) => this.#collective("allToAll", [shared]));
  }

  broadcast(data: Uint8Array | undefined, root: number): Promise<Bytes> {
    const own = data && root === this.rank ? [data] : [];
    return this.#lending(own, ([shared]) => this.#collective("broadcast", [shared, root]));
  }

  barrier(): Promise<void> {
    return this.#collective("barrier", []);
  }

  abort(reason: Error): void {
    this.#tell({ type: "abort", reason: sendableError(reason) });
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#tell({ type: "close" });
    await this.#disconnected.promise;
    this.#worker.terminate();
    const closed: PeerFailure = {
      peer: this.rank,
      kind: "closed",
      detail: "this rank has closed its process group",
      origin: this.rank,
    };
    const { reason } = this.signal;
    const failure = reason instanceof PeerError ? reason.failure : closed;
    this.#gone ??= (operation) => new PeerError(failure, operation);
  }

  #take(message: FromWorker): void {
    switch (message.type) {
      case "told":
        return this.#options[message.callback]?.(message.text);
      case "connected":
        return this.#connected.resolve();
      case "refused":
        return this.#connected.reject(receivedError(message.error));
      case "done":
        this.#counts = message.counts;
        return this.#settle(message.id)?.resolve(message.result);
      case "failed":
        this.#counts = message.counts;
        return this.#settle(message.id)?.reject(receivedError(message.error));
      case "ended":
        return this.#controller.abort(receivedError(message.error));
      case "closed":
        return this.#disconnected.resolve();
    }
  }

  #settle(id: number): PendingCall | undefined {
    const call = this.#pending.get(id);
    this.#pending.delete(id);
    return call;
  }

  /** The worker has ended by an error of its own. */
  #crash(error: Error): void {
    this.#gone ??= () => error;
    this.#connected.reject(error);
    this.#disconnected.resolve();
    this.#controller.abort(error);
    for (const call of this.#pending.values()) call.reject(error);
    this.#pending.clear();
  }

  /** Runs a call with its arrays in shared memory; where the call fails, the worker may still be reading the copies. */
  async #lending<View extends Uint8Array | Float32Array, T>(
    arrays: readonly View[],
    call: (shared: View[]) => Promise<T>,
  ): Promise<T> {
    const shared = arrays.map((array) => this.#share(array));
    const result = await call(shared);
    shared.forEach((array, i) => {
      if (array !== arrays[i]) this.memory.give(array);
    });
    return result;
  }

  #share<View extends Uint8Array | Float32Array>(array: View): View {
    if (isShared(array)) return array;
    const copy = array instanceof Float32Array ? this.memory.floats(array.length) : this.memory.bytes(array.length);
    copy.set(array);
    return copy as Uint8Array | Float32Array as View;
  }

  #collective<Method extends WorkerMethod>(method: Method, args: Arguments<Method>): Promise<Result<Method>> {
    this.#collectives.collective(method);
    return this.#call(method, args);
  }

  /** Hands a call over at once, so that the worker gets calls in their order. */
  async #call<Method extends WorkerMethod>(method: Method, args: Arguments<Method>): Promise<Result<Method>> {
    if (this.#gone) throw this.#gone({ name: method, step: this.#step });
    const id = this.#calls++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve, reject });
    this.#tell({ type: "call", id, method, args } as WorkerCall);
    return await promise as Result<Method>;
  }

  #tell(message: ToWorker): void {
    this.#worker.postMessage(message);
  }
}
