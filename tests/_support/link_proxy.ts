/**
 * A TCP proxy in this process that makes a connection as bad as a test wants it: slow, late, uneven, stalled or cut.
 *
 * @module
 */

/** What becomes of the bytes of a connection, in each direction. */
export interface LinkConditions {
  /** How much later they arrive, in milliseconds. */
  readonly delayMs?: number;
  /** Up to how much later still, drawn for every piece; pieces keep their order. */
  readonly jitterMs?: number;
  /** At how many a second they pass. */
  readonly bytesPerSecond?: number;
}

/** Bytes that are passed on at once; about those of a few packets, so that a slow link is not slow in jumps. */
const PIECE_BYTES = 16 * 1024;
/** Milliseconds of bytes that may be on the way; more is left with the sender, as by the buffers of a network. */
const QUEUE_MS = 200;

interface Piece {
  readonly bytes: Uint8Array;
  readonly dueMs: number;
}

/** Listens at a port of 127.0.0.1 and connects who comes to the port behind it. */
export class LinkProxy {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #connections = new Set<Deno.TcpConn>();
  readonly #conditions: LinkConditions;
  readonly #tasks: Promise<void>[] = [];
  #stall: PromiseWithResolvers<void> | undefined;

  /** @param targetPort port of 127.0.0.1 to connect to */
  constructor(targetPort: number, conditions: LinkConditions = {}) {
    this.#conditions = conditions;
    this.#tasks.push(this.#accept(targetPort));
  }

  /** Port that it listens at. */
  get port(): number {
    return this.#listener.addr.port;
  }

  /** From here on no byte passes, and nobody is told: a pulled cable. */
  stall(): void {
    this.#stall ??= Promise.withResolvers();
  }

  /** What was held back passes. */
  resume(): void {
    this.#stall?.resolve();
    this.#stall = undefined;
  }

  /** Ends all connections at once, without a goodbye. */
  cut(): void {
    for (const connection of this.#connections) close(connection);
    this.#connections.clear();
  }

  /** Ends everything. */
  async close(): Promise<void> {
    close(this.#listener);
    this.cut();
    this.resume();
    await Promise.all(this.#tasks);
  }

  async #accept(targetPort: number): Promise<void> {
    for await (const near of this.#listener) {
      let far: Deno.TcpConn;
      try {
        far = await Deno.connect({ hostname: "127.0.0.1", port: targetPort });
      } catch {
        // Nobody listens there yet.
        close(near);
        continue;
      }
      for (const [from, to] of [[near, far], [far, near]]) {
        from.setNoDelay(true);
        this.#connections.add(from);
        this.#tasks.push(this.#pass(from, to));
      }
    }
  }

  /** Passes bytes on until one side ends. */
  async #pass(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
    const { delayMs = 0, jitterMs = 0, bytesPerSecond = Infinity } = this.#conditions;
    const queue: Piece[] = [];
    let wake = Promise.withResolvers<void>();
    let ended = false;
    const deliver = async () => {
      while (true) {
        while (queue.length === 0 && !ended) await wake.promise;
        const [piece] = queue;
        if (!piece) return;
        await until(piece.dueMs);
        await this.#stall?.promise;
        await writeAll(to, piece.bytes);
        queue.shift();
      }
    };
    const delivered = deliver().catch(() => {});
    try {
      const buffer = new Uint8Array(PIECE_BYTES);
      let passedMs = 0;
      let lastDueMs = 0;
      for (let count = await from.read(buffer); count !== null; count = await from.read(buffer)) {
        passedMs = Math.max(passedMs, performance.now()) + count / bytesPerSecond * 1000;
        lastDueMs = Math.max(lastDueMs, passedMs + delayMs + Math.random() * jitterMs);
        queue.push({ bytes: buffer.slice(0, count), dueMs: lastDueMs });
        wake.resolve();
        wake = Promise.withResolvers();
        await until(passedMs - QUEUE_MS);
      }
    } catch {
      // Closed on this side.
    }
    ended = true;
    wake.resolve();
    await delivered;
    for (const connection of [from, to]) {
      close(connection);
      this.#connections.delete(connection);
    }
  }
}

async function writeAll(connection: Deno.TcpConn, bytes: Uint8Array): Promise<void> {
  while (bytes.length > 0) bytes = bytes.subarray(await connection.write(bytes));
}

async function until(timeMs: number): Promise<void> {
  const ms = timeMs - performance.now();
  if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
}

function close(resource: { close(): void }): void {
  try {
    resource.close();
  } catch {
    // It is closed.
  }
}
