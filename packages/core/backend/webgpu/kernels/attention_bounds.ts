/**
 * Which rows of the other side a row of attention meets, as WGSL: always a run of them, since positions ascend and ranges
 * do not descend. Keys that a query sees run from its `first_key` to before its `visible_keys`; queries that see a key,
 * from its `first_query` to before its `end_query`. Without ranges the first key of all queries is 0 and the end of the
 * queries is their number: what depends on them is then not compiled in.
 *
 * @module
 */

/** How `query_positions` tells what a query sees; compiled into a kernel. */
export interface RangeLayout {
  /** Whether it holds a range for each row, first and last position, rather than a position for each query. */
  readonly ranged: boolean;
}

/** Searches of a bound that each row takes. */
export function searchesPerRow({ ranged }: RangeLayout): number {
  return ranged ? 2 : 1;
}

/**
 * `visible_keys(sequence, query)` and, with ranges, `first_key(sequence, query)`. Where the positions of keys follow one
 * another, the first one tells the bound; a search, whose loads wait for one another, is left for where they do not.
 */
export function keysOfQuery(layout: RangeLayout): string {
  const search = (name: string, side: "first" | "last", isBefore: string) => `
fn ${name}(sequence: u32, query: u32) -> u32 {
  let position = ${positionOf(layout, "query", side)};
  var low = 0u;
  var high = params.keys;
  if (high == 0u) { return 0u; }
  let start = key_positions[params.key_positions_at];
  let told = min(select(0u, position - start${side === "last" ? " + 1u" : ""}, position >= start), high);
  if ((told == 0u || key_positions[params.key_positions_at + max(told, 1u) - 1u] ${isBefore} position) &&
      (told == high || !(key_positions[params.key_positions_at + min(told, high - 1u)] ${isBefore} position))) {
    return told;
  }
  while (low < high) {
    let middle = low + (high - low) / 2u;
    if (key_positions[params.key_positions_at + middle] ${isBefore} position) { low = middle + 1u; } else { high = middle; }
  }
  return low;
}
`;
  return search("visible_keys", "last", "<=") + (layout.ranged ? search("first_key", "first", "<") : "");
}

/** `first_query(sequence, key)` and, with ranges, `end_query(sequence, key)`. */
export function queriesOfKey(layout: RangeLayout): string {
  const search = (name: string, side: "first" | "last", isBefore: string) => `
fn ${name}(sequence: u32, key: u32) -> u32 {
  let position = key_positions[params.key_positions_at + key];
  var low = 0u;
  var high = params.queries;
  while (low < high) {
    let middle = low + (high - low) / 2u;
    if (${positionOf(layout, "middle", side)} ${isBefore} position) { low = middle + 1u; } else { high = middle; }
  }
  return low;
}
`;
  return search("first_query", "last", "<") + (layout.ranged ? search("end_query", "first", "<=") : "");
}

/** Side whose rows the invocations own. */
export type Owners = "queries" | "keys";

/** Declares what {@linkcode isMet} asks of own row `i`, whose number in the sequence is `own_<i>`. */
export function ownRun({ ranged }: RangeLayout, owners: Owners, i: number): string {
  const bound = (name: string) => `${name}(sequence, own_${i})`;
  const [begin, end] = owners === "queries" ? ["first_key", "visible_keys"] : ["first_query", "end_query"];
  if (ranged) return `let from_${i} = ${bound(begin)};\n  let count_${i} = ${bound(end)} - from_${i};`;
  return owners === "queries" ? `let count_${i} = ${bound(end)};` : `let from_${i} = ${bound(begin)};`;
}

/** Whether own row `i` meets row `index` of the other side; what lies before a run wraps around, past any count. */
export function isMet({ ranged }: RangeLayout, owners: Owners, index: string, i: number): string {
  if (ranged) return `${index} - from_${i} < count_${i}`;
  return owners === "queries" ? `${index} < count_${i}` : `${index} >= from_${i}`;
}

/** The run of rows that any of the own rows `first` to `last` meets; expressions. */
export function streamedRun(
  { ranged }: RangeLayout,
  owners: Owners,
  first: string,
  last: string,
): { readonly begin: string; readonly end: string } {
  if (owners === "queries") {
    return { begin: ranged ? `first_key(sequence, ${first})` : "0u", end: `visible_keys(sequence, ${last})` };
  }
  return { begin: `first_query(sequence, ${first})`, end: ranged ? `end_query(sequence, ${last})` : "params.queries" };
}

/** Position at one end of what a query sees. */
function positionOf({ ranged }: RangeLayout, query: string, side: "first" | "last"): string {
  if (!ranged) return `query_positions[params.query_positions_at + ${query}]`;
  const row = `(sequence * params.queries + ${query})`;
  return `query_positions[params.query_positions_at + 2u * ${row}${side === "last" ? " + 1u" : ""}]`;
}
