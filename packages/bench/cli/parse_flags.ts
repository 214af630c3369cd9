/**
 * Reading a command line by a table of flags.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import type { FlagTable, FlagValues } from "./flag.ts";
import { nearest } from "./nearest.ts";
import { UsageError } from "./usage_error.ts";

/** A command line that was read. */
export interface ParsedFlags<Table extends FlagTable> {
  /** Values of the flags that were given. */
  readonly flags: FlagValues<Table>;
  /** Arguments that are no flags, in order. */
  readonly operands: readonly string[];
}

/**
 * Reads a command line.
 *
 * @throws {UsageError} for a flag that does not exist, naming the nearest one, and for a value that is none of the flag
 */
export function parseFlags<Table extends FlagTable>(args: readonly string[], table: Table): ParsedFlags<Table> {
  const names = Object.keys(table);
  for (const arg of args) refuseSwitchValue(arg, table);
  const given = parseArgs(args, {
    boolean: names.filter((name) => table[name].isSwitch),
    string: [...names.filter((name) => !table[name].isSwitch), "_"],
    ...(table.help && { alias: { help: "h" } }),
    unknown: (arg, key) => {
      if (key !== undefined) throw new UsageError(unknownFlag(arg, key, names));
    },
  });
  const flags: Record<string, unknown> = {};
  for (const name of names) {
    const value = given[name];
    if (value === undefined || value === false) continue;
    flags[name] = readValue(name, String(value), table);
  }
  return { flags: flags as FlagValues<Table>, operands: given._.map(String) };
}

function readValue(name: string, text: string, table: FlagTable): unknown {
  const flag = table[name];
  if (flag.isSwitch) return true;
  if (text === "") throw new UsageError(`Cannot use --${name} without a value: it must be ${flag.wanted}`);
  const value = flag.read(text);
  if (value === undefined) throw new UsageError(`Cannot use --${name}=${text}: it must be ${flag.wanted}`);
  return value;
}

function refuseSwitchValue(arg: string, table: FlagTable): void {
  const [, name, value] = arg.match(/^--([^=]+)=(.*)$/s) ?? [];
  if (name === undefined || !Object.hasOwn(table, name) || !table[name].isSwitch) return;
  throw new UsageError(`Cannot use --${name}=${value}: --${name} takes no value`);
}

function unknownFlag(arg: string, key: string, names: readonly string[]): string {
  const guess = nearest(key, names);
  return `Cannot use ${arg}: there is no such flag${guess ? `, did you mean --${guess}?` : ""}`;
}
