/**
 * One rank's process, as the launcher sees it.
 *
 * @module
 */

import { linesOf } from "./lines.ts";
import { parseRankEvent, type RankEvent, type RankOrder, type RendezvousOrder } from "./rank_protocol.ts";

/** Lines of stderr that are kept of each rank. */
const KEPT_LINES = 40;

/** How a rank's process ended. */
export interface RankExit {
  /** Exit code. */
  readonly code: number;
  /** Signal that ended it, if one did. */
  readonly signal: Deno.Signal | null;
}

/** Options of {@linkcode RankProcess}. */
export interface RankProcessOptions {
  /** What the rank is told first. */
  readonly order: RankOrder;
  /** Variables added to the environment. */
  readonly environment: Readonly<Record<string, string>>;
  /** Called with every event, in order. */
  readonly onEvent: (event: RankEvent) => void;
}

/**
 * A rank's process. It ends when its stdin does, so it cannot outlive the launcher; {@linkcode RankProcess.kill} ends it
 * earlier.
 */
export class RankProcess {
  /** Number of the rank. */
  readonly rank: number;
  /** Resolves when the process has ended and all that it wrote has been read. */
  readonly exit: Promise<RankExit>;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #stderr: string[] = [];
  readonly #onEvent: (event: RankEvent) => void;

  /** Starts the process and gives it its order. */
  constructor({ order, environment, onEvent }: RankProcessOptions) {
    this.rank = order.rank;
    this.#onEvent = onEvent;
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--allow-all", import.meta.resolve("../rank/rank_main.ts")],
      env: { ...environment },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#tell(order);
    this.exit = this.#watch();
  }

  /** Last lines that the process wrote to stderr. */
  get stderrTail(): readonly string[] {
    return this.#stderr;
  }

  /** Number of the process. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Tells the rank where to meet the others. */
  tellRendezvous(url: string): void {
    this.#tell({ rendezvous: url });
  }

  /** Ends the process at once, also a stopped one. */
  kill(): void {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  }

  #tell(order: RankOrder | RendezvousOrder): void {
    // A rank that is gone cannot be told; its exit says why it is gone.
    this.#stdin.write(new TextEncoder().encode(`${JSON.stringify(order)}\n`)).catch(() => {});
  }

  async #watch(): Promise<RankExit> {
    const [{ code, signal }] = await Promise.all([this.#child.status, this.#readEvents(), this.#readStderr()]);
    await this.#stdin.close().catch(() => {});
    return { code, signal };
  }

  async #readEvents(): Promise<void> {
    for await (const line of linesOf(this.#child.stdout)) {
      const event = parseRankEvent(line);
      if (event) this.#onEvent(event);
      else this.#keep(line);
    }
  }

  async #readStderr(): Promise<void> {
    for await (const line of linesOf(this.#child.stderr)) this.#keep(line);
  }

  #keep(line: string): void {
    if (line.trim() === "") return;
    this.#stderr.push(line);
    if (this.#stderr.length > KEPT_LINES) this.#stderr.shift();
  }
}
