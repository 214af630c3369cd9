import { assertEquals } from "@std/assert";
import { parseArgs } from "@std/cli/parse-args";

Deno.test("parseArgs reads declared flags in both spellings", () => {
  const options = { boolean: ["profile"], string: ["strategy", "json"] } as const;
  const separate = parseArgs(["--profile", "--strategy", "ring", "--json", "out.json"], options);
  const joined = parseArgs(["--profile=true", "--strategy=ring", "--json=out.json"], options);
  assertEquals(separate, { _: [], profile: true, strategy: "ring", json: "out.json" });
  assertEquals(joined, separate);
});

Deno.test("parseArgs leaves absent booleans false and absent strings out", () => {
  assertEquals(parseArgs([], { boolean: ["help"], string: ["data"] }), { _: [], help: false });
});

Deno.test("parseArgs does not take the next flag as a value", () => {
  assertEquals(parseArgs(["--data", "--help"], { boolean: ["help"], string: ["data"] }), {
    _: [],
    data: "",
    help: true,
  });
  assertEquals(parseArgs(["--data"], { string: ["data"] }), { _: [], data: "" });
});

Deno.test("parseArgs keeps the text of string flags and turns positional numbers into numbers", () => {
  assertEquals(parseArgs(["--steps", "08", "7", "0x10", "a"], { string: ["steps"] }), {
    _: [7, 16, "a"],
    steps: "08",
  });
});

Deno.test("parseArgs fills defaults and aliases", () => {
  const options = { string: ["model"], alias: { model: "m" }, default: { model: "tiny" } };
  assertEquals(parseArgs([], options), { _: [], model: "tiny", m: "tiny" });
  assertEquals(parseArgs(["-m", "1b"], options), { _: [], model: "1b", m: "1b" });
  assertEquals(parseArgs(["--model", "1b"], options), { _: [], model: "1b", m: "1b" });
});

Deno.test("parseArgs accepts a single-letter flag that has no long name", () => {
  assertEquals(parseArgs(["-v"], { boolean: ["v"] }), { _: [], v: true });
});

Deno.test("parseArgs negates only what may be negated", () => {
  assertEquals(parseArgs(["--no-color"], { boolean: ["color"], negatable: ["color"] }), { _: [], color: false });
  const seen: string[] = [];
  parseArgs(["--no-color"], { boolean: ["color"], unknown: (arg) => seen.push(arg) });
  assertEquals(seen, ["--no-color"]);
});

Deno.test("parseArgs reads a boolean followed by its value", () => {
  assertEquals(parseArgs(["--profile", "false", "x"], { boolean: ["profile"] }), { _: ["x"], profile: false });
});

Deno.test("parseArgs collects repeated values", () => {
  const options = { string: ["dir"], collect: ["dir"] };
  assertEquals(parseArgs(["--dir=a", "--dir=b"], options), { _: [], dir: ["a", "b"] });
  assertEquals(parseArgs([], options), { _: [], dir: [] });
});

Deno.test("parseArgs asks about undeclared flags and positionals", () => {
  const seen: unknown[][] = [];
  const unknown = (...call: unknown[]) => {
    seen.push(call);
    return false;
  };
  assertEquals(parseArgs(["--stratgy=ring", "--ranks", "2", "stray"], { string: ["ranks"], unknown }), {
    _: [],
    ranks: "2",
  });
  assertEquals(seen, [["--stratgy=ring", "stratgy", "ring"], ["stray"]]);
});

Deno.test("parseArgs keeps an undeclared flag with its value when nobody objects", () => {
  assertEquals(parseArgs(["--steps", "3", "--fast"]), { _: [], steps: 3, fast: true });
});

Deno.test("parseArgs stops at -- and, on request, at the first positional", () => {
  assertEquals(parseArgs(["--a=1", "--", "--b"], { string: ["a"] }), { _: ["--b"], a: "1" });
  assertEquals(parseArgs(["--a=1", "--", "--b"], { string: ["a"], "--": true }), { _: [], a: "1", "--": ["--b"] });
  const early = parseArgs(["--a", "1", "run", "--b", "2"], { string: ["a"], stopEarly: true });
  assertEquals(early, { _: ["run", "--b", "2"], a: "1" });
});
