/**
 * Runs whose ranks suffer a fault in a phase. Processes are kept for the next run, since starting them costs most.
 *
 * @module
 */
import { assert } from "@std/assert";
import { linesOf } from "../../packages/bench/launcher/lines.ts";
import { freePort } from "../_support/free_port.ts";
import { LinkProxy } from "../_support/link_proxy.ts";
import type { PhaseEvent, PhaseOrder } from "./_phase_rank.ts";

/** What happens to a rank: its process ends, or stands still, or no byte passes its links any more. */
export type FaultKind = "killed" | "frozen" | "cut off";

/** A fault of a run. */
export interface PhaseFault extends Pick<PhaseOrder, "size" | "strategy" | "mesh" | "shard" | "saveTo" | "timeoutMs"> {
  /** When it happens. */
  readonly phase: NonNullable<PhaseOrder["stopIn"]>;
  /** What happens. */
  readonly kind: FaultKind;
  /** Rank that it happens to. */
  readonly victim: number;
}

/** How a rank ended. */
export type RankEnd = Extract<PhaseEvent, { type: "ended" }>;

/** What became of a run. */
export interface PhaseOutcome {
  /** How each rank ended; undefined for one that was killed or frozen. */
  readonly ends: readonly (RankEnd | undefined)[];
  /** From the fault until the last rank had ended. */
  readonly elapsedMs: number;
}

/** A process that is a rank of one run after the other. */
class PhaseProcess {
  /** Resolves once it takes orders. */
  readonly ready: Promise<unknown>;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #events: AsyncGenerator<string>;

  constructor() {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "-A", new URL("./_phase_rank.ts", import.meta.url).pathname],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#events = linesOf(this.#child.stdout);
    this.ready = this.nextEvent("ready");
  }

  tell(line: unknown): void {
    this.#stdin.write(new TextEncoder().encode(`${JSON.stringify(line)}\n`)).catch(() => {});
  }

  async nextEvent<Type extends PhaseEvent["type"]>(type: Type): Promise<Extract<PhaseEvent, { type: Type }>> {
    const { value, done } = await this.#events.next();
    assert(!done, `The process ended before it was ${type}`);
    const event: PhaseEvent = JSON.parse(value);
    assert(event.type === type, `Wanted a rank that is ${type}, got ${value}`);
    return event as Extract<PhaseEvent, { type: Type }>;
  }

  signal(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  /** Ends the process, also a stopped one. */
  async end(): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#events.return(undefined);
    await this.#child.status;
    await this.#stdin.close().catch(() => {});
  }
}

/** Lends processes and takes them back. */
export class PhaseProcesses implements AsyncDisposable {
  readonly #idle: PhaseProcess[] = [];

  /** Runs until all ranks have ended that can. */
  async suffer(fault: PhaseFault): Promise<PhaseOutcome> {
    const { size, victim, kind, phase } = fault;
    const ranks = Array.from({ length: size }, () => this.#idle.pop() ?? new PhaseProcess());
    const proxies: LinkProxy[] = [];
    try {
      await Promise.all(ranks.map(({ ready }) => ready));
      ranks.forEach((process, rank) => process.tell(orderFor(rank, fault, proxies)));
      await ranks[victim].nextEvent("stopped");
      const startMs = performance.now();
      if (kind === "killed") ranks[victim].signal("SIGKILL");
      else if (kind === "frozen") ranks[victim].signal("SIGSTOP");
      else {
        proxies.forEach((proxy) => proxy.stall());
        ranks[victim].tell(`go on with the ${phase}`);
      }
      const lives = (rank: number) => rank !== victim || kind === "cut off";
      const ends = await Promise.all(
        ranks.map(async (process, rank) => lives(rank) ? await process.nextEvent("ended") : undefined),
      );
      const elapsedMs = performance.now() - startMs;
      this.#idle.push(...ranks.filter((_, rank) => lives(rank)));
      if (!lives(victim)) await ranks[victim].end();
      return { ends, elapsedMs };
    } catch (error) {
      await Promise.all(ranks.map((process) => process.end()));
      throw error;
    } finally {
      await Promise.all(proxies.map((proxy) => proxy.close()));
    }
  }

  /** Ends all processes. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#idle.map((process) => process.end()));
  }
}

const runs = new WeakMap<PhaseFault, { token: string; port: number }>();

/** The order of a rank; the links of one that is to be cut off, rank 0 or 1, pass proxies. */
function orderFor(rank: number, fault: PhaseFault, proxies: LinkProxy[]): PhaseOrder {
  const { size, strategy, mesh, shard, saveTo, timeoutMs, victim, kind, phase } = fault;
  if (!runs.has(fault)) runs.set(fault, { token: crypto.randomUUID(), port: freePort() });
  const { token, port } = runs.get(fault)!;
  const through = (target: number) => {
    proxies.push(new LinkProxy(target));
    return `ws://127.0.0.1:${proxies.at(-1)!.port}`;
  };
  const isCut = kind === "cut off" && rank === victim;
  assert(!isCut || rank === 1, "Higher ranks connect to rank 1 at the address that it advertises");
  const ownPort = isCut ? freePort() : undefined;
  return {
    rank,
    size,
    token,
    strategy,
    mesh,
    shard,
    saveTo,
    timeoutMs,
    // A busy machine takes its time, which is no part of what is tested; rank 0 is to be the first to give up.
    rendezvousMs: phase === "rendezvous" && (rank === 0 || rank === victim) ? 2 * timeoutMs : 30_000,
    ...(rank === 0 ? { port } : { rendezvous: isCut ? through(port) : `ws://127.0.0.1:${port}` }),
    ...(ownPort !== undefined && { port: ownPort, advertise: through(ownPort) }),
    ...(rank === victim && { stopIn: phase }),
  };
}
