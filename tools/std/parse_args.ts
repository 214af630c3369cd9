/**
 * Thin stand-in for `@std/cli/parse-args`: the options that the command lines use, with the same names and results.
 * Point `@std/cli/parse-args` in deno.json at `jsr:@std/cli@1/parse-args` to use the original.
 *
 * @module
 */
import { parseArgs as nodeParseArgs, type ParseArgsConfig } from "node:util";

/** Which flags exist and how their values are read. */
export interface ParseOptions {
  /** Flags that take no value; absent ones are false. */
  boolean?: string | readonly string[];
  /** Flags whose value stays text. */
  string?: string | readonly string[];
  /** Flags that gather every value given into a list; absent ones are an empty list. */
  collect?: string | readonly string[];
  /** Flags that `--no-NAME` sets to false. */
  negatable?: string | readonly string[];
  /** Further names of a flag, both of which appear in the result. */
  alias?: Record<string, string | readonly string[]>;
  /** Values of flags that are not given. */
  default?: Record<string, unknown>;
  /** Called with what is not declared; returning false leaves it out of the result. */
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
  /** Leaves all that follows the first positional argument in `_`. */
  stopEarly?: boolean;
  /** Leaves all that follows `--` in the result's `--` and not in `_`. */
  "--"?: boolean;
}

/** The flags by name, and the positional arguments as `_`. */
// deno-lint-ignore no-explicit-any
export type Args = Record<string, any> & { _: (string | number)[]; "--"?: string[] };

/**
 * Reads a command line.
 *
 * @param args the words, usually `Deno.args`
 * @param options the flags that exist; any other is kept too, unless `unknown` returns false for it
 * @returns the value of every flag, and the positional arguments as `_`
 */
export function parseArgs(args: readonly string[], options: ParseOptions = {}): Args {
  const flags = declareFlags(options);
  const [words, rest] = splitWords(args, options, flags);
  const { tokens } = nodeParseArgs({
    args: joinValues(words, flags),
    options: nodeOptions(flags),
    allowPositionals: true,
    strict: false,
    tokens: true,
  });
  const result: Args = { _: [] };
  for (const token of tokens) {
    if (token.kind === "option") readFlag(result, token, flags, options);
    else if (token.kind === "positional" && options.unknown?.(token.value) !== false) {
      result._.push(numberOrText(token.value));
    }
  }
  for (const flag of new Set(flags.values())) fillDefault(result, flag, options.default ?? {});
  if (options["--"]) result["--"] = rest;
  else result._.push(...rest);
  return result;
}

interface Flag {
  readonly names: readonly string[];
  readonly kind: "boolean" | "string";
  readonly collect: boolean;
  readonly negatable: boolean;
}

function declareFlags(options: ParseOptions): Map<string, Flag> {
  const [booleans, strings, collect, negatable] = [options.boolean, options.string, options.collect, options.negatable]
    .map(list);
  const aliases = Object.entries(options.alias ?? {}).map(([name, others]) => [name, ...list(others)]);
  const flags = new Map<string, Flag>();
  for (const name of [...booleans, ...strings]) {
    const names = aliases.find((group) => group.includes(name)) ?? [name];
    const flag: Flag = {
      names,
      kind: names.some((n) => booleans.includes(n)) ? "boolean" : "string",
      collect: names.some((n) => collect.includes(n)),
      negatable: names.some((n) => negatable.includes(n)),
    };
    for (const each of names) flags.set(each, flag);
  }
  return flags;
}

function nodeOptions(flags: Map<string, Flag>): NonNullable<ParseArgsConfig["options"]> {
  const entries = [...flags].map(([name, flag]) => {
    const short = flag.names.find((other) => other.length === 1 && name.length > 1);
    return [name, { type: flag.kind, multiple: true, ...(short ? { short } : {}) }] as const;
  });
  return Object.fromEntries(entries.filter(([name]) => name.length > 1 || !hasLongName(flags.get(name)!)));
}

function hasLongName(flag: Flag): boolean {
  return flag.names.some((name) => name.length > 1);
}

/** Writes every long flag and its value as one word, so that a flag never swallows the flag behind it. */
function joinValues(words: readonly string[], flags: Map<string, Flag>): string[] {
  const joined: string[] = [];
  for (let i = 0; i < words.length; i++) {
    const [word, next] = [words[i], words[i + 1]];
    const value = word.startsWith("--") && !word.includes("=")
      ? valueAfter(flags.get(word.slice(2)), word, next)
      : undefined;
    joined.push(value === undefined ? word : `${word}=${value}`);
    if (value) i++;
  }
  return joined;
}

function valueAfter(flag: Flag | undefined, word: string, next: string | undefined): string | undefined {
  if (flag?.kind === "boolean") return next === "true" || next === "false" ? next : undefined;
  if (!flag && word.startsWith("--no-")) return undefined;
  const value = next === undefined || next.startsWith("-") ? "" : next;
  return value === "" && !flag ? undefined : value;
}

/** Cuts the words at `--`, or at the first positional where `stopEarly` asks for that. */
function splitWords(
  args: readonly string[],
  options: ParseOptions,
  flags: Map<string, Flag>,
): [words: string[], rest: string[]] {
  const terminator = args.indexOf("--");
  const end = terminator < 0 ? args.length : terminator;
  const after = args.slice(end + 1);
  if (options.stopEarly) {
    for (let i = 0; i < end; i++) {
      if (!args[i].startsWith("-")) return [args.slice(0, i), [...args.slice(i, end), ...after]];
      if (takesNextWord(args[i], flags)) i++;
    }
  }
  return [args.slice(0, end), after];
}

function takesNextWord(word: string, flags: Map<string, Flag>): boolean {
  return !word.includes("=") && flags.get(word.replace(/^--?/, ""))?.kind === "string";
}

interface OptionToken {
  readonly name: string;
  readonly rawName: string;
  readonly value: string | undefined;
}

function readFlag(result: Args, token: OptionToken, flags: Map<string, Flag>, options: ParseOptions): void {
  const negated = token.name.startsWith("no-") ? flags.get(token.name.slice(3)) : undefined;
  if (negated?.negatable) return store(result, negated, false);
  const flag = flags.get(token.name);
  if (flag?.kind === "boolean") return store(result, flag, token.value === undefined || token.value === "true");
  if (flag) return store(result, flag, token.value ?? "");
  const value = token.value === undefined ? true : numberOrText(token.value);
  const raw = token.value === undefined ? token.rawName : `${token.rawName}=${token.value}`;
  if (options.unknown?.(raw, token.name, value) !== false) result[token.name] = value;
}

function store(result: Args, flag: Flag, value: unknown): void {
  for (const name of flag.names) {
    if (flag.collect) (result[name] ??= []).push(value);
    else result[name] = value;
  }
}

function fillDefault(result: Args, flag: Flag, defaults: Record<string, unknown>): void {
  const key = flag.names.find((name) => name in defaults);
  const absent = flag.collect ? [] : flag.kind === "boolean" ? false : undefined;
  const value = key === undefined ? absent : defaults[key];
  if (value === undefined) return;
  for (const name of flag.names) result[name] ??= value;
}

function numberOrText(text: string): string | number {
  return text.trim() !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
}

function list(value: string | readonly string[] | undefined): readonly string[] {
  return typeof value === "string" ? [value] : value ?? [];
}
