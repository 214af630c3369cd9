/**
 * What every command line does the same way: exit codes, error messages and signals.
 *
 * @module
 */

import { UsageError } from "../cli/usage_error.ts";
import { RankFailedError } from "../launcher/rank_failure.ts";

/** Exit codes: all is well; a run failed or a tolerance was exceeded; the command line or a file is not usable. */
export const EXIT = { ok: 0, failed: 1, usage: 2 } as const;

/** The exit codes as `--help` explains them. */
export const EXIT_CODES_TEXT =
  "Exit codes: 0 done, 1 a rank failed or a tolerance was exceeded, 2 the command line or a " +
  "file cannot be used, 130 Ctrl-C.";

/** Signals that end a command, and the exit codes that shells expect then (128 + number). */
const SIGNAL_EXIT_CODES = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** A command, from its arguments to its exit code; gives up what it started when the signal is aborted. */
export type Command = (args: readonly string[], signal: AbortSignal) => Promise<number>;

/** A signal asked the command to end. */
class Interrupted extends Error {
  override readonly name = "Interrupted";

  constructor(readonly exitCode: number) {
    super("Interrupted");
  }
}

/** Runs a command and ends the process with its exit code. */
export async function runCommand(command: Command): Promise<never> {
  const controller = new AbortController();
  for (const [name, exitCode] of Object.entries(SIGNAL_EXIT_CODES)) {
    if (Deno.build.os === "windows" && name !== "SIGINT") continue;
    Deno.addSignalListener(name as Deno.Signal, () => {
      // Ranks end with their stdin, so a second signal may end this process at once.
      if (controller.signal.aborted) Deno.exit(exitCode);
      controller.abort(new Interrupted(exitCode));
    });
  }
  Deno.exit(await run(command, controller.signal));
}

async function run(command: Command, signal: AbortSignal): Promise<number> {
  try {
    return await command(Deno.args, signal);
  } catch (error) {
    const reason = signal.aborted ? signal.reason : error;
    if (reason instanceof Interrupted) {
      console.error("interrupted; all ranks have been ended");
      return reason.exitCode;
    }
    printError(reason);
    return reason instanceof UsageError ? EXIT.usage : EXIT.failed;
  }
}

/** Prints an error as one line, followed by what a crashed rank said last. */
export function printError(error: unknown): void {
  if (error instanceof UsageError) console.error(`error: ${error.message}\nSee --help for what there is.`);
  else if (error instanceof RankFailedError) {
    console.error(`error: ${error.message}`);
    for (const line of error.stderrTail) console.error(`  rank ${error.rank} | ${line}`);
  } else console.error(error);
}
