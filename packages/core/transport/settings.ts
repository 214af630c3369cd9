/**
 * Settings that all ranks of a run have to agree on.
 *
 * @module
 */

/** Differences that a refusal names; more would not fit a line. */
const NAMED_DIFFERENCES = 3;
/** Characters of a value that are shown. */
const SHOWN_CHARACTERS = 60;

/** What differs, for a person to read; undefined where nothing does. */
export function describeDifference(
  given: Readonly<Record<string, string>>,
  wanted: Readonly<Record<string, string>>,
): string | undefined {
  const names = [...new Set([...Object.keys(wanted), ...Object.keys(given)])]
    .filter((name) => given[name] !== wanted[name]);
  if (names.length === 0) return undefined;
  const differences = names.slice(0, NAMED_DIFFERENCES)
    .map((name) => `${name} ${show(given[name])}, and rank 0 with ${show(wanted[name])}`);
  const more = names.length > NAMED_DIFFERENCES ? `; ${names.length - NAMED_DIFFERENCES} more settings differ` : "";
  return `it was started with ${differences.join("; with ")}${more}`;
}

function show(value: string | undefined): string {
  if (value === undefined) return "none";
  return value.length > SHOWN_CHARACTERS ? `${value.slice(0, SHOWN_CHARACTERS)}…` : value;
}
