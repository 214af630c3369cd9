import { assert, assertEquals, assertLess, assertMatch, assertThrows } from "@std/assert";
import { readCheckpoint, type ShardStage } from "@mst/core";
import type { Mesh, StrategyName } from "../../packages/bench/scenario.ts";
import { withTempDir } from "../_support/temp_dir.ts";
import type { Phase } from "./_phase_rank.ts";
import { type FaultKind, type PhaseFault, type PhaseOutcome, PhaseProcesses } from "./_phase_run.ts";

/** Longer than a rank gets no turn on a busy machine; who is killed is found at once, whatever the timeout. */
const TIMEOUT_MS: Readonly<Record<FaultKind, number>> = { "killed": 10_000, "frozen": 2500, "cut off": 2500 };
/** Runs at a time: most of one is waiting for its timeout. */
const RUNS_AT_A_TIME = 6;

/** How a strategy is run, and what the operations are called that its ranks are found in. */
interface StrategyRow {
  readonly size: number;
  readonly mesh?: Mesh;
  readonly forward: RegExp;
  readonly backward: RegExp;
  /** Phases besides those of {@linkcode PHASES}. */
  readonly phases: typeof PHASES;
}

/** What is sharded while a phase is looked at, and what its operations are called. */
const PHASES: readonly (readonly [phase: Phase, shard: ShardStage, operation?: RegExp])[] = [
  ["forward", "none"],
  ["backward", "none"],
  ["gradient reduction", "none", /"sum \d+, piece|allReduce/],
];

/** Ranks stop while weights and moments pass through rank 0, which is where they hold parts of them. */
function saving(shard: ShardStage): typeof PHASES[number] {
  return ["checkpoint", shard, /"checkpoint of [\w.]+"/];
}

/** Strategies that split the weights gather none. */
const GATHERING: typeof PHASES = [["weight gathering", "weights", /allGather/]];

/** Phases of other stages, in which all strategies that replicate weights do the same: one stands for them. */
const OTHER_STAGES: typeof PHASES = [
  ["gradient reduction", "optimizer", /reduceScatter/],
  ["gradient reduction", "weights", /"reduction \d+"|allGather/],
  ["weight gathering", "optimizer", /allGather/],
];

const STRATEGIES: Readonly<Record<Exclude<StrategyName, "single">, StrategyRow>> = {
  ring: {
    size: 3,
    forward: /"forward k, v, round/,
    backward: /"backward (k, v|dk, dv), round/,
    phases: [...GATHERING, ...OTHER_STAGES, saving("optimizer")],
  },
  ulysses: { size: 3, forward: /allToAll/, backward: /allToAll/, phases: [...GATHERING, saving("weights")] },
  megatron: { size: 3, forward: /allToAll/, backward: /allToAll/, phases: [saving("none")] },
  usp: {
    size: 4,
    mesh: { ulysses: 2, ring: 2 },
    forward: /forward k, v|allToAll/,
    backward: /backward|allToAll/,
    phases: [...GATHERING, saving("gradients")],
  },
};

const KINDS: readonly FaultKind[] = ["killed", "frozen", "cut off"];

const HAPPENED: Readonly<Record<FaultKind, string>> = {
  "killed": "left",
  "frozen": "stopped answering",
  "cut off": "stopped answering",
};

interface PhaseCase extends PhaseFault {
  readonly operation: RegExp;
}

const CASES: readonly PhaseCase[] = [
  ...KINDS.map((kind): PhaseCase => ({
    phase: "rendezvous",
    kind,
    victim: 1,
    strategy: "ring",
    size: 3,
    shard: "none",
    timeoutMs: TIMEOUT_MS.frozen,
    operation: /rendezvous/,
  })),
  ...Object.entries(STRATEGIES).flatMap(([strategy, { size, mesh, phases, ...operations }]) =>
    [...PHASES, ...phases].flatMap(([phase, shard, operation], index) =>
      KINDS.map((kind): PhaseCase => ({
        phase,
        kind,
        // Every rank has its turn; only links of rank 1 can be cut.
        victim: kind === "cut off" ? 1 : (index + KINDS.indexOf(kind)) % size,
        strategy: strategy as StrategyName,
        size,
        mesh,
        shard,
        timeoutMs: TIMEOUT_MS[kind],
        operation: operation ?? operations[phase as "forward"],
      }))
    )
  ),
];

/** All but the victim have ended by an error that names it, the operation and the step. */
function check(
  { victim, kind, phase, operation, timeoutMs }: PhaseCase,
  { ends, elapsedMs }: PhaseOutcome,
): void {
  const others = ends.flatMap((end, rank) => end && rank !== victim ? [end] : []);
  assertEquals(others.length, ends.length - 1);
  for (const { name, message, origin } of others) {
    assertEquals([name, origin], ["PeerError", victim], message);
    const step = phase === "rendezvous" ? 0 : 2;
    const happened = phase === "rendezvous" ? "did not answer" : HAPPENED[kind];
    assertMatch(message, new RegExp(`Rank ${victim} ${happened} during .* at step ${step}: `));
    assertMatch(message, new RegExp(`^Rank \\d (${happened}|aborted the run) during .* at step ${step}: `));
  }
  assert(others.some(({ message }) => operation.test(message)), others.map(({ message }) => message).join("\n"));
  const cut = ends[victim];
  if (cut) assertMatch(`${cut.name}: ${cut.message}`, /^PeerError: Rank \d (stopped answering|left|did not answer)/);
  // The peers of one that waits for the victim wait for twice the timeout at most.
  assertLess(elapsedMs, kind === "killed" && phase !== "rendezvous" ? 6000 : 3 * timeoutMs + 6000);
}

Deno.test({
  name: "a rank that is killed, frozen or cut off in any phase, under any strategy, is named by all others",
  // Steps that run beside each other cannot be held to what each of them leaves open; the processes are ended below.
  sanitizeOps: false,
  sanitizeResources: false,
  async fn(t) {
    await using processes = new PhaseProcesses();
    const waiting = [...CASES];
    const work = async () => {
      for (let fault = waiting.shift(); fault; fault = waiting.shift()) {
        const { strategy, shard, phase, kind, victim, size } = fault;
        const where = phase === "rendezvous" ? phase : `${phase} of ${strategy}, shard ${shard}`;
        await t.step({
          name: `rank ${victim} of ${size} ${kind} in ${where}`,
          sanitizeOps: false,
          sanitizeResources: false,
          sanitizeExit: false,
          fn: () =>
            withTempDir(async (folder) => {
              const saveTo = phase === "checkpoint" ? `${folder}/saved` : undefined;
              const outcome = await processes.suffer({ ...fault, saveTo });
              check(fault, outcome);
              if (saveTo !== undefined) {
                assertEquals(
                  (await readCheckpoint(saveTo)).state.step,
                  1,
                  "The checkpoint of the step before is whole",
                );
              }
              for (const changed of [{ victim: (victim + 1) % size }, { operation: /of another phase/ }]) {
                assertThrows(() => check({ ...fault, ...changed }, outcome), Error, undefined, "The check can fail");
              }
            }),
        });
      }
    };
    await Promise.all(Array.from({ length: RUNS_AT_A_TIME }, work));
  },
});
