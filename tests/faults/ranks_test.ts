import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import { type CommandResult, isAlive, type RunningCommand, startCommand, survivors } from "../_support/processes.ts";

const TIMEOUT_SECONDS = 2;

/** A run that would take hours if it were left alone. */
const ENDLESS = [
  ..."--device=reference --layers=1 --dim=32 --heads=2 --ffn=32 --seq=48 --steps=1000000".split(" "),
  `--timeout=${TIMEOUT_SECONDS}`,
];

/** A moment of a run: its ranks have been started, or are training. */
type Moment = "setting up" | "step 2/";

interface Fault {
  /** Flags besides {@linkcode ENDLESS}. */
  readonly flags: string;
  /** When it happens. */
  readonly moment: Moment;
  /** Rank that it happens to; the launcher when left out. */
  readonly rank?: number;
  /** What happens. */
  readonly signal: Deno.Signal;
}

interface Aftermath extends CommandResult {
  /** The line that says what went wrong. */
  readonly error: string;
  /** From the fault to the end of the command. */
  readonly elapsedMs: number;
}

/** Starts a run, lets the fault happen, and sees the command end and all its processes with it. */
async function suffer({ flags, moment, rank, signal }: Fault): Promise<Aftermath> {
  const command = startCommand("main.ts", [...ENDLESS, ...flags.split(" ")]);
  let ranks: number[] = [];
  try {
    await command.says(moment);
    ranks = command.ranks();
    assert(rank === undefined || rank < ranks.length, `Found ${ranks.length} ranks`);
    const startMs = performance.now();
    Deno.kill(rank === undefined ? command.pid : ranks[rank], signal);
    const result = await endOf(command);
    const elapsedMs = performance.now() - startMs;
    assertEquals(await survivors(ranks, 2000), [], "Processes stayed behind");
    const error = result.stderr.split("\n").findLast((line) => line.startsWith("error: ")) ?? "";
    return { ...result, error, elapsedMs };
  } finally {
    for (const pid of [command.pid, ...ranks]) if (isAlive(pid)) Deno.kill(pid, "SIGKILL");
  }
}

/** The command's result; an error if it takes far longer than any timeout. */
async function endOf(command: RunningCommand): Promise<CommandResult> {
  const limit = Promise.withResolvers<never>();
  const timer = setTimeout(() => limit.reject(new Error("The command hangs")), 30_000);
  try {
    return await Promise.race([command.result, limit.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** From the fault to the end: the timeout, a grace for what the others saw, and slow machines. */
const LIMIT_MS = TIMEOUT_SECONDS * 1000 + 6000;

for (
  const [rank, signal, flags] of [
    [0, "SIGKILL", "--ranks=3"],
    [1, "SIGTERM", "--ranks=3"],
    [2, "SIGABRT", "--ranks=3 --shard=weights"],
  ] as const
) {
  Deno.test(`rank ${rank} ended by ${signal} is named, and the others end: ${flags}`, async () => {
    const { code, error, elapsedMs } = await suffer({ flags, moment: "step 2/", rank, signal });
    assertEquals(code, 1);
    assertStringIncludes(error, `rank ${rank} failed: its process was ended by ${signal}`);
    assertLess(elapsedMs, LIMIT_MS);
  });
}

for (const rank of [0, 1]) {
  Deno.test(`rank ${rank} of 2 killed before the ranks have met is named`, async () => {
    const { code, error } = await suffer({ flags: "--ranks=2", moment: "setting up", rank, signal: "SIGKILL" });
    assertEquals(code, 1);
    assertStringIncludes(error, `rank ${rank} failed: its process was ended by SIGKILL`);
  });
}

Deno.test("a single rank that is killed is named", async () => {
  const { code, error } = await suffer({
    flags: "--strategy=single",
    moment: "step 2/",
    rank: 0,
    signal: "SIGKILL",
  });
  assertEquals(code, 1);
  assertStringIncludes(error, "rank 0 failed: its process was ended by SIGKILL");
});

for (const [ranks, rank] of [[2, 1], [3, 0]]) {
  Deno.test(`rank ${rank} of ${ranks} stopped while training is given up after the timeout`, async () => {
    const fault = { flags: `--ranks=${ranks}`, moment: "step 2/", rank, signal: "SIGSTOP" } as const;
    const { code, error, elapsedMs } = await suffer(fault);
    assertEquals(code, 1);
    assertMatch(error, new RegExp(`rank ${rank} failed: .*Rank ${rank} stopped answering during .* at step \\d+`));
    assertLess(elapsedMs, LIMIT_MS);
  });
}

Deno.test("a rank stopped before the ranks have met is given up after the timeout", async () => {
  const fault = { flags: "--ranks=3", moment: "setting up", rank: 2, signal: "SIGSTOP" } as const;
  const { code, error, elapsedMs } = await suffer(fault);
  assertEquals(code, 1);
  assertStringIncludes(error, "rank 2 failed");
  assertLess(elapsedMs, LIMIT_MS);
});

Deno.test("a stopped rank that nobody waits for is given up, too", async () => {
  const fault = { flags: "--strategy=single", moment: "step 2/", rank: 0, signal: "SIGSTOP" } as const;
  const { code, error, elapsedMs } = await suffer(fault);
  assertEquals(code, 1);
  assertStringIncludes(error, "rank 0 failed: its process was stopped (SIGSTOP)");
  assertLess(elapsedMs, LIMIT_MS);
});

for (const [signal, exitCode] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const) {
  for (const moment of ["setting up", "step 2/"] as const) {
    Deno.test(`${signal} to the launcher at "${moment}" ends all ranks, with exit code ${exitCode}`, async () => {
      const { code, stdout, stderr, elapsedMs } = await suffer({ flags: "--ranks=3", moment, signal });
      assertEquals(code, exitCode);
      assertEquals(stdout, "");
      assertStringIncludes(stderr, "interrupted; all ranks have been ended");
      assertEquals(stderr.includes("error:"), false, stderr);
      assertLess(elapsedMs, 3000);
    });
  }
}

for (const flags of ["--ranks=3", "--strategy=single", "--ranks=2 --seq=4096"]) {
  Deno.test(`ranks end when the launcher is killed: ${flags}`, async () => {
    // With 4096 tokens the ranks are deep in computation when their launcher goes.
    const moment = flags.includes("4096") ? "setting up" : "step 2/";
    await suffer({ flags, moment, signal: "SIGKILL" });
  });
}

Deno.test("an error of a rank is shown in one line", async () => {
  const command = startCommand("main.ts", [...ENDLESS, "--ranks=2", "--lr=1e38", "--clip=0"]);
  const { code, stderr } = await endOf(command);
  assertEquals(code, 1);
  const lines = stderr.split("\n").filter((line) => !line.startsWith("ring") && line !== "");
  assertEquals(lines.length, 1, stderr);
  assertMatch(lines[0], /^error: rank [01] failed: RangeError: Cannot go on after step \d+/);
});
