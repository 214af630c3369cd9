/**
 * The text that `--help` prints.
 *
 * @module
 */

import type { FlagTable } from "./flag.ts";

/** What a command's help says besides its flags. */
export interface HelpText {
  /** The command line in general. */
  readonly usage: string;
  /** What the command does, in a sentence. */
  readonly summary: string;
  /** Command lines to start from, each with what it does. */
  readonly examples: readonly (readonly [command: string, purpose: string])[];
  /** What the exit codes mean. */
  readonly exitCodes: string;
}

/** Help of a command. */
export function formatHelp({ usage, summary, examples, exitCodes }: HelpText, flags: FlagTable): string {
  const rows = Object.entries(flags).map(([name, { values, help, otherwise }]) => [
    `--${name}${values ? `=${values}` : ""}`,
    otherwise === undefined ? help : `${help} (default: ${otherwise})`,
  ]);
  const width = Math.max(...rows.map(([flag]) => flag.length).filter((length) => length <= 30));
  return [
    summary,
    "",
    `Usage: ${usage}`,
    "",
    "Flags:",
    ...rows.map(([flag, help]) => {
      return flag.length > width ? `  ${flag}\n  ${" ".repeat(width)}  ${help}` : `  ${flag.padEnd(width)}  ${help}`;
    }),
    "",
    "Examples:",
    ...examples.flatMap(([command, purpose]) => [`  # ${purpose}`, `  ${command}`]),
    "",
    exitCodes,
  ].join("\n");
}
