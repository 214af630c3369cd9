/**
 * Running command lines in tests, and finding out what they leave behind.
 *
 * @module
 */

/** How a command ended. */
export interface CommandResult {
  /** Exit code. */
  readonly code: number;
  /** All that it wrote to stdout. */
  readonly stdout: string;
  /** All that it wrote to stderr. */
  readonly stderr: string;
}

/** A command that is running. */
export interface RunningCommand {
  /** Number of its process. */
  readonly pid: number;
  /** Resolves when it has ended. */
  readonly result: Promise<CommandResult>;
  /** Numbers of its child processes, by rank. */
  ranks(): number[];
  /** Resolves once `text` has come on stderr. */
  says(text: string): Promise<void>;
}

/** A command line of the bench. */
export type CommandFile = "main.ts" | "verify_main.ts";

/** Options of {@linkcode startCommand}. */
export interface CommandOptions {
  /** Variables added to the environment. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Makes every attempt to start a process an error. */
  readonly denyProcesses?: boolean;
  /** Command that runs it, with its arguments, in place of its own process; none by default. */
  readonly within?: readonly string[];
}

const ENVIRONMENT = { XDG_RUNTIME_DIR: "/tmp", NO_COLOR: "1" };

/** Starts `deno run` on a file of the bench. */
export function startCommand(
  file: CommandFile,
  args: readonly string[],
  { environment, denyProcesses = false, within = [] }: CommandOptions = {},
): RunningCommand {
  const path = new URL(`../../packages/bench/${file}`, import.meta.url).pathname;
  const [program, ...words] = [...within, Deno.execPath(), "run", "-A"];
  const child = new Deno.Command(program, {
    args: [...words, ...(denyProcesses ? ["--deny-run"] : []), path, ...args],
    env: { ...ENVIRONMENT, ...environment },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const output = { stdout: "", stderr: "" };
  const waiting = new Set<() => void>();
  const collect = async (name: keyof typeof output) => {
    for await (const text of child[name].pipeThrough(new TextDecoderStream())) {
      output[name] += text;
      waiting.forEach((check) => check());
    }
  };
  const result = Promise.all([child.status, collect("stdout"), collect("stderr")])
    .then(([{ code }]) => ({ code, ...output }));
  return {
    pid: child.pid,
    result,
    ranks: () => childrenOf(child.pid),
    async says(text: string): Promise<void> {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const check = () => output.stderr.includes(text) && resolve();
      waiting.add(check);
      check();
      result.then(() => reject(new Error(`The command ended without saying ${text}: ${output.stderr}`)), reject);
      await promise.finally(() => waiting.delete(check));
    },
  };
}

/** Runs a command to its end. */
export async function runCommand(
  file: CommandFile,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  return await startCommand(file, args, options).result;
}

/**
 * Numbers of the processes that a process has started, in the order of their starting. Found without a turn of the event
 * loop: a process that was just started has not said anything yet.
 */
export function childrenOf(pid: number): number[] {
  const children = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = readStat(Number(name));
    if (stat && stat.parent === pid) children.push({ pid: Number(name), startedAt: stat.startedAt });
  }
  return children.sort((a, b) => a.startedAt - b.startedAt || a.pid - b.pid).map((child) => child.pid);
}

/** Whether a process is running or stopped; one that only waits to be reaped is gone. */
export function isAlive(pid: number): boolean {
  const stat = readStat(pid);
  return stat !== undefined && stat.state !== "Z" && stat.state !== "X";
}

/** Those of the processes that are still there after at most `ms`. */
export async function survivors(pids: readonly number[], ms: number): Promise<number[]> {
  const deadline = performance.now() + ms;
  while (true) {
    const alive = [];
    for (const pid of pids) if (isAlive(pid)) alive.push(pid);
    if (alive.length === 0 || performance.now() > deadline) return alive;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Whether a process that was sent SIGSTOP is stopped after at most `ms`: all its threads have to notice. */
export async function stopsWithin(pid: number, ms: number): Promise<boolean> {
  const deadline = performance.now() + ms;
  while (readStat(pid)?.state !== "T") {
    if (performance.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return true;
}

/** See proc(5): pid (name) state parent … and as field 22 the time of its start. */
function readStat(pid: number): { state: string; parent: number; startedAt: number } | undefined {
  let text: string;
  try {
    text = Deno.readTextFileSync(`/proc/${pid}/stat`);
  } catch {
    return undefined; // it has ended
  }
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0], parent: Number(fields[1]), startedAt: Number(fields[19]) };
}
