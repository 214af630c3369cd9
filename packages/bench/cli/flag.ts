/**
 * Kinds of flags: how the text after `--name=` becomes a value, and how help shows it.
 *
 * @module
 */

/** A flag that takes a value, or a switch that is there or not. */
export interface Flag<T> {
  /** Whether it takes no value. */
  readonly isSwitch: boolean;
  /** Values as help shows them, such as `ring|single` or `N`. */
  readonly values: string;
  /** What a value must be, in words, for error messages. */
  readonly wanted: string;
  /** What it is for. */
  readonly help: string;
  /** The value when it is not given, as help shows it. */
  readonly otherwise?: string;
  /** Reads a value; undefined when the text is none. */
  read(text: string): T | undefined;
}

/** Flags by name, without the dashes. */
export type FlagTable = Readonly<Record<string, Flag<unknown>>>;

/** Values of the flags of a table that were given. */
export type FlagValues<Table extends FlagTable> = {
  readonly [Name in keyof Table]?: Table[Name] extends Flag<infer T> ? T : never;
};

/** What help says of a flag. */
export interface FlagText {
  /** What it is for. */
  readonly help: string;
  /** The value when it is not given. */
  readonly otherwise?: string;
}

/** Largest count that a flag takes unless it says otherwise; more than any machine has tokens for. */
const MAX_COUNT = 1e15;

/** A switch. */
export function toggle(help: string): Flag<true> {
  return { isSwitch: true, values: "", wanted: "given without a value", help, read: () => true };
}

/** One of a few words. */
export function choice<const Word extends string>(words: readonly Word[], text: FlagText): Flag<Word> {
  return {
    isSwitch: false,
    values: words.join("|"),
    wanted: listed(words),
    ...text,
    read: (value) => words.find((word) => word === value),
  };
}

/** Some of a few words, each once, with commas between them. */
export function choices<const Word extends string>(words: readonly Word[], text: FlagText): Flag<Word[]> {
  return {
    isSwitch: false,
    values: words.join(","),
    wanted: words.length === 1 ? words[0] : `${listed(words)}, or several of them with commas between`,
    ...text,
    read: (value) => {
      const given = value.split(",");
      const known = words.filter((word) => given.includes(word));
      return known.length === given.length ? known : undefined;
    },
  };
}

/** A whole number from `min` (default 1) to `max`, or one of a few words. */
export function count<const Word extends string = never>(
  { words = [], min = 1, max = MAX_COUNT, example, ...text }: FlagText & {
    words?: readonly Word[];
    min?: number;
    max?: number;
    example: number;
  },
): Flag<number | Word> {
  const range = max < MAX_COUNT ? `from ${min} to ${max}` : `of ${min} or more`;
  return {
    isSwitch: false,
    values: [...words, "N"].join("|"),
    wanted: listed([...words, `a whole number ${range}, such as ${example}`]),
    ...text,
    read: (value) => {
      const word = words.find((each) => each === value);
      if (word !== undefined) return word;
      const number = /^\d{1,15}$/.test(value) ? Number(value) : NaN;
      return number >= min && number <= max ? number : undefined;
    },
  };
}

/** One whole number, or all from a first to a last, such as `2-3`. */
export function range({ max, ...text }: FlagText & { max: number }): Flag<readonly number[]> {
  return {
    isSwitch: false,
    values: "N|N-M",
    wanted: `a whole number from 0 to ${max}, or a range such as 2-3`,
    ...text,
    read: (value) => {
      const [, from, to = from] = value.match(/^(\d{1,9})(?:-(\d{1,9}))?$/) ?? [];
      const [first, last] = [Number(from), Number(to)];
      if (!(first <= last && last <= max)) return undefined;
      return Array.from({ length: last - first + 1 }, (_, index) => first + index);
    },
  };
}

/** A finite number of `min` or more. */
export function decimal({ min = 0, example, ...text }: FlagText & { min?: number; example: number }): Flag<number> {
  return {
    isSwitch: false,
    values: "X",
    wanted: `a number of ${min} or more, such as ${example}`,
    ...text,
    read: (value) => {
      const number = /^(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value) ? Number(value) : NaN;
      return number >= min && number < Infinity ? number : undefined;
    },
  };
}

const BYTE_UNITS: readonly string[] = ["", "B", "KiB", "MiB", "GiB", "TiB"];

/** A number of bytes, at least one, with or without a unit. */
export function bytes({ example, ...text }: FlagText & { example: string }): Flag<number> {
  return {
    isSwitch: false,
    values: "BYTES",
    wanted: `bytes, such as ${example}`,
    ...text,
    read: (value) => {
      const [, digits = "", unit = ""] = value.match(/^(\d+\.?\d*|\.\d+) ?([A-Za-z]*)$/) ?? [];
      const power = Math.max(0, BYTE_UNITS.indexOf(unit) - 1);
      const size = digits !== "" && BYTE_UNITS.includes(unit) ? Math.floor(Number(digits) * 1024 ** power) : NaN;
      return size >= 1 && size <= Number.MAX_SAFE_INTEGER ? size : undefined;
    },
  };
}

/** Any text but an empty one. */
export function text({ values, wanted, ...rest }: FlagText & { values: string; wanted: string }): Flag<string> {
  return { isSwitch: false, values, wanted, ...rest, read: (value) => value === "" ? undefined : value };
}

function listed(words: readonly string[]): string {
  if (words.length < 2) return words.join();
  return `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;
}
