/**
 * A rank that stops where a test wants it to: in a phase of its second step, or before it meets the others. The process
 * takes one order after the other as lines of JSON, and answers with lines of JSON, so that one start serves many tests.
 *
 * @module
 */
import {
  type AttentionCore,
  connectWorkerGroup,
  createReferenceBackend,
  parseTrainConfig,
  PeerError,
  type ProcessGroup,
  type SequenceStrategy,
  type ShardStage,
  shareMemory,
  Trainer,
} from "@mst/core";
import { linesOf } from "../../packages/bench/launcher/lines.ts";
import { type Mesh, strategyEntry, type StrategyName } from "../../packages/bench/scenario.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

/** Where a rank can stop. */
export type Phase = "rendezvous" | "forward" | "backward" | "gradient reduction" | "weight gathering" | "checkpoint";

/** What a rank is told. */
export interface PhaseOrder {
  /** Number of the rank. */
  readonly rank: number;
  /** Number of ranks. */
  readonly size: number;
  /** Secret of the run. */
  readonly token: string;
  /** Address of rank 0, for the others. */
  readonly rendezvous?: string;
  /** Port to listen at. */
  readonly port?: number;
  /** Address that others are told. */
  readonly advertise?: string;
  /** Milliseconds of silence. */
  readonly timeoutMs: number;
  /** Milliseconds until all have met. */
  readonly rendezvousMs: number;
  /** Strategy of the run. */
  readonly strategy: StrategyName;
  /** Axes of a hybrid. */
  readonly mesh?: Mesh;
  /** What ranks divide. */
  readonly shard: ShardStage;
  /** Where checkpoints are saved after every step; nowhere if left out. */
  readonly saveTo?: string;
  /** Where this rank stops until it gets the next line; nowhere if left out. */
  readonly stopIn?: Phase;
}

/** What a rank tells. */
export type PhaseEvent =
  | { readonly type: "ready" }
  | { readonly type: "stopped" }
  | { readonly type: "ended"; readonly name: string; readonly message: string; readonly origin?: number };

/** The step in which ranks stop: buffers, code and links are warm, and the weights have been updated once. */
const STOP_STEP = 2;

/** Calls of a strategy by phase, whatever is sharded. */
const CALLS: Partial<Record<Phase, readonly string[]>> = {
  "gradient reduction": ["reduceGradients", "reduceScatterGradients", "reduceScatter", "sumOver"],
  "weight gathering": ["gatherWeights", "allGather"],
  "checkpoint": ["gatherToFirst"],
};

/**
 * Calls with which a step or a checkpoint begins: the first of them needs nothing of the others, who may not have ended
 * what was before; the second comes once all have had their part in the first.
 */
const AT_THE_START: readonly string[] = ["forward", "allGather", "gatherToFirst"];

const MODEL = tinyModel({ layers: 2, dim: 24, heads: 6, kvHeads: 6, ffn: 24, vocab: 48 });
const TRAIN = { seqTokens: 24, steps: 1_000_000 };

/** Lets `stop` come before the first call of the phase in the step. */
class StopAt {
  readonly #phase: Phase | undefined;
  readonly #stop: () => Promise<void>;
  #step = 0;
  #calls = 0;

  constructor(phase: Phase | undefined, stop: () => Promise<void>) {
    this.#phase = phase;
    this.#stop = stop;
  }

  /** The strategy, its calls watched. */
  watch(strategy: SequenceStrategy): SequenceStrategy {
    return this.#wrap(strategy, (name, result) => {
      if (name === "attention") return this.#watchAttention(result as AttentionCore);
      return name === "tensorParallel" ? this.#wrap(result as object, (_, value) => value) : result;
    });
  }

  #watchAttention(core: AttentionCore): AttentionCore {
    return new Proxy(core, {
      get: (target, name) => {
        const method = Reflect.get(target, name, target);
        if (name !== "forward" && name !== "backward") return method.bind(target);
        return async (...args: unknown[]) => {
          await this.#reach(name, name);
          return await method.apply(target, args);
        };
      },
    });
  }

  #wrap<T extends object>(object: T, convert: (name: string, result: unknown) => unknown): T {
    const calls = CALLS[this.#phase ?? "rendezvous"] ?? [];
    return new Proxy(object, {
      get: (target, name) => {
        const value = Reflect.get(target, name, target);
        if (typeof value !== "function") return value;
        return (...args: unknown[]) => {
          if (name === "beginStep") this.#step = args[0] as number;
          if (!calls.includes(String(name))) return convert(String(name), value.apply(target, args));
          return this.#reach(this.#phase!, String(name)).then(() => value.apply(target, args));
        };
      },
    });
  }

  async #reach(phase: Phase, call: string): Promise<void> {
    if (phase !== this.#phase || this.#step !== STOP_STEP) return;
    this.#calls += 1;
    if (this.#calls === (AT_THE_START.includes(call) ? 2 : 1)) await this.#stop();
  }
}

const lines = linesOf(Deno.stdin.readable);

async function nextLine(): Promise<unknown> {
  const { value, done } = await lines.next();
  return done ? Deno.exit() : JSON.parse(value);
}

function tell(event: PhaseEvent): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(event)}\n`));
}

/** Stands still until the next line. */
async function stop(): Promise<void> {
  tell({ type: "stopped" });
  await nextLine();
}

async function run(order: PhaseOrder): Promise<never> {
  const { rank, size, token, rendezvous, port, advertise, timeoutMs, rendezvousMs, stopIn } = order;
  if (stopIn === "rendezvous") await stop();
  const meeting = { rank, size, token, rendezvous, port, advertise, timeoutMs, rendezvousMs, retry: true };
  const group = await connectWorkerGroup(meeting);
  try {
    return await train(order, await shareMemory(group)); // as the bench does
  } catch (error) {
    group.abort(error as Error);
    throw error;
  } finally {
    await group.close();
  }
}

async function train({ strategy: name, mesh, shard, saveTo, stopIn }: PhaseOrder, group: ProcessGroup): Promise<never> {
  await using backend = createReferenceBackend();
  const strategy = strategyEntry(name).create({ backend, group, placement: "zigzag", mesh });
  const watched = new StopAt(stopIn, stop).watch(strategy);
  using trainer = new Trainer({
    backend,
    strategy: watched,
    model: MODEL,
    train: parseTrainConfig({ ...TRAIN, shard }),
  });
  const batch = randomBatch(MODEL, TRAIN.seqTokens);
  while (true) {
    await trainer.step([batch]);
    if (saveTo !== undefined) await trainer.save(saveTo);
  }
}

if (import.meta.main) {
  tell({ type: "ready" });
  while (true) {
    try {
      await run(await nextLine() as PhaseOrder);
    } catch (error) {
      const { name, message } = error as Error;
      tell({ type: "ended", name, message, ...(error instanceof PeerError && { origin: error.origin }) });
    }
  }
}
