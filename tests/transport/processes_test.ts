import { assertEquals, assertGreaterOrEqual, assertLess, assertStringIncludes } from "@std/assert";

const SCRIPT = new URL("./_rank_process.ts", import.meta.url).pathname;
const SIZE = 3;

/** A rank in a process of its own, with the JSON values that it writes. */
class RankProcess {
  readonly process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  #rest = "";

  constructor(rank: number, timeoutMs: number, mode: string, url: string[]) {
    const args = ["run", "-A", SCRIPT, ...[rank, SIZE, timeoutMs].map(String), mode, ...url];
    this.process = new Deno.Command(Deno.execPath(), { args, stdin: "null", stdout: "piped" }).spawn();
    this.#lines = this.process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** The next value, or undefined at the end. */
  async read(): Promise<unknown> {
    while (!this.#rest.includes("\n")) {
      const { value, done } = await this.#lines.read();
      if (done) return undefined;
      this.#rest += value;
    }
    const end = this.#rest.indexOf("\n");
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + 1);
    return JSON.parse(line);
  }
}

/** Starts a run, hands it to the body once all ranks are linked, and leaves no process behind. */
async function withProcesses(
  mode: string,
  timeoutMs: number,
  body: (ranks: RankProcess[]) => Promise<void>,
): Promise<void> {
  const ranks = [new RankProcess(0, timeoutMs, mode, [])];
  try {
    const url = await ranks[0].read() as string;
    for (let rank = 1; rank < SIZE; rank++) ranks.push(new RankProcess(rank, timeoutMs, mode, [url]));
    assertEquals(await Promise.all(ranks.map((rank) => rank.read())), ranks.map(() => "ready"));
    await body(ranks);
  } finally {
    for (const { process } of ranks) kill(process);
    await Promise.all(ranks.map(async (rank) => {
      await rank.process.status;
      while (await rank.read() !== undefined);
    }));
  }
}

/** Kills the process, unless it has ended by itself. */
function kill(process: Deno.ChildProcess): void {
  try {
    process.kill("SIGKILL");
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
}

interface ReportedError {
  message: string;
  kind: string;
  origin: number;
  step: number;
}

Deno.test("three processes exchange, and each ends by itself once it has closed", () =>
  withProcesses("work", 20_000, async (ranks) => {
    for (const rank of ranks) {
      assertEquals(await rank.read(), { sum: 6 });
      assertEquals((await rank.process.status).code, 0);
    }
  }));

Deno.test("when a process is killed, the others end at once and name it", () =>
  withProcesses("endless", 20_000, async (ranks) => {
    await Promise.all(ranks.map((rank) => rank.read()));
    const startMs = performance.now();
    ranks[2].process.kill("SIGKILL");
    for (const rank of ranks.slice(0, 2)) {
      const { message, origin, step } = await rank.read() as ReportedError;
      assertStringIncludes(message, "Rank 2 left during");
      assertEquals(origin, 2);
      assertGreaterOrEqual(step, 3);
      assertEquals((await rank.process.status).code, 3);
    }
    assertLess(performance.now() - startMs, 10_000);
  }));

Deno.test("when a process is stopped, the others end by the timeout and name it", () =>
  withProcesses("endless", 1500, async (ranks) => {
    await Promise.all(ranks.map((rank) => rank.read()));
    const startMs = performance.now();
    ranks[1].process.kill("SIGSTOP");
    for (const rank of [ranks[0], ranks[2]]) {
      const { message, origin } = await rank.read() as ReportedError;
      assertStringIncludes(message, "Rank 1 stopped answering during");
      assertEquals(origin, 1);
      assertEquals((await rank.process.status).code, 3);
    }
    assertGreaterOrEqual(performance.now() - startMs, 1000);
    assertLess(performance.now() - startMs, 15_000);
  }));

Deno.test("a process whose thread is blocked for longer than the timeout is not blamed: its worker answers", () =>
  withProcesses("pause", 400, async (ranks) => {
    for (const rank of ranks) {
      assertEquals(await rank.read(), { sum: 6 });
      assertEquals((await rank.process.status).code, 0);
    }
  }));

Deno.test("a process whose thread hangs is found after twice the timeout, and named", () =>
  withProcesses("hang", 500, async (ranks) => {
    const startMs = performance.now();
    for (const rank of [ranks[0], ranks[2]]) {
      const { message, origin } = await rank.read() as ReportedError;
      assertStringIncludes(message, "Rank 1 stopped answering during");
      assertStringIncludes(message, "signs of life but no message for 1 s");
      assertEquals(origin, 1);
      assertEquals((await rank.process.status).code, 3);
    }
    assertGreaterOrEqual(performance.now() - startMs, 900);
    assertLess(performance.now() - startMs, 15_000);
  }));
