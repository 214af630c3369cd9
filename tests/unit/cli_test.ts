import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { BENCH_FLAGS, VERIFY_FLAGS } from "../../packages/bench/cli/flags.ts";
import { formatHelp } from "../../packages/bench/cli/help.ts";
import { editDistance, nearest } from "../../packages/bench/cli/nearest.ts";
import { parseFlags } from "../../packages/bench/cli/parse_flags.ts";
import { UsageError } from "../../packages/bench/cli/usage_error.ts";

function parse(...args: string[]) {
  return parseFlags(args, BENCH_FLAGS);
}

Deno.test("only flags that are given have values, of their types", () => {
  assertEquals(parse(), { flags: {}, operands: [] });
  assertEquals(parse("--strategy=ring", "--ranks=auto", "--seq", "70", "--lr=1e-3", "--compare").flags, {
    strategy: "ring",
    ranks: "auto",
    seq: 70,
    lr: 0.001,
    compare: true,
  });
  assertEquals(parse("--mini-sequence=off", "--mlp-chunks=7", "--warmup=0", "--seed=4294967295").flags, {
    "mini-sequence": "off",
    "mlp-chunks": 7,
    warmup: 0,
    seed: 4294967295,
  });
});

Deno.test("bytes are read with and without units", () => {
  const sizes = { "4096": 4096, "7B": 7, "1KiB": 1024, "512MiB": 2 ** 29, "1.5GiB": 1.5 * 2 ** 30, "1 TiB": 2 ** 40 };
  for (const [text, size] of Object.entries(sizes)) {
    assertEquals(parse(`--memory-budget=${text}`).flags["memory-budget"], size, text);
  }
});

Deno.test("arguments that are no flags are operands", () => {
  assertEquals(parseFlags(["a/b", "--device=reference", "c"], VERIFY_FLAGS), {
    flags: { device: "reference" },
    operands: ["a/b", "c"],
  });
});

Deno.test("-h asks for help, too", () => {
  assert(parse("-h").flags.help);
  assert(parse("--help").flags.help);
});

Deno.test("an unknown flag is refused with the nearest one", () => {
  assertThrows(() => parse("--stratgey=ring"), UsageError, "did you mean --strategy?");
  assertThrows(() => parse("--rnks=2"), UsageError, "did you mean --ranks?");
  assertThrows(() => parse("--minisequence=4"), UsageError, "did you mean --mini-sequence?");
  assertThrows(() => parse("--kv_heads=2"), UsageError, "did you mean --kv-heads?");
  const error = assertThrows(() => parse("--quantize=8"), UsageError, "Cannot use --quantize=8: there is no such flag");
  assert(!(error as Error).message.includes("did you mean"));
  assertThrows(() => parse("-x"), UsageError, "Cannot use -x");
  assertThrows(() => parse("--__proto__=1"), UsageError, "there is no such flag");
  assertThrows(() => parse("--constructor=1"), UsageError, "there is no such flag");
});

Deno.test("a value that is none of its flag is refused with what would be", () => {
  const cases: [arg: string, message: string][] = [
    ["--strategy=rings", "Cannot use --strategy=rings: it must be ring, "],
    ["--ranks=0", "Cannot use --ranks=0: it must be auto or a whole number from 1 to 128, such as 4"],
    ["--ranks=129", "from 1 to 128"],
    ["--ranks=2.5", "whole number"],
    ["--seq=8k", "Cannot use --seq=8k: it must be a whole number of 1 or more, such as 1024"],
    ["--seq=-4", "Cannot use --seq=-4"],
    ["--seq=0x10", "whole number"],
    ["--seq=1e3", "whole number"],
    ["--seq=99999999999999999999", "whole number"],
    ["--seq=", "Cannot use --seq without a value"],
    ["--mini-sequence=on", "it must be auto, off or a whole number"],
    ["--recompute=all", "none, selective, except-attention or layer"],
    ["--shard=all", "Cannot use --shard=all: it must be none, optimizer, gradients or weights"],
    [
      "--offload=foo",
      "Cannot use --offload=foo: it must be checkpoints or optimizer, or several of them with commas between",
    ],
    ["--offload=checkpoints,foo", "Cannot use --offload=checkpoints,foo"],
    ["--offload=optimizer,optimizer", "Cannot use --offload=optimizer,optimizer"],
    ["--lr=fast", "a number of 0 or more, such as 0.001"],
    ["--lr=Infinity", "a number of 0 or more"],
    ["--lr=1e999", "a number of 0 or more"],
    ["--clip=-1", "a number of 0 or more"],
    ["--seed=4294967296", "from 0 to 4294967295"],
    ["--memory-budget=2GB", "Cannot use --memory-budget=2GB: it must be bytes, such as 512MiB or 2GiB"],
    ["--memory-budget=0", "Cannot use --memory-budget=0"],
    ["--memory-budget=0.5", "Cannot use --memory-budget=0.5"],
    ["--memory-budget=MiB", "Cannot use --memory-budget=MiB"],
    ["--memory-budget=-1MiB", "Cannot use --memory-budget=-1MiB"],
    ["--memory-budget=9000TiB", "Cannot use --memory-budget=9000TiB"],
    ["--json=", "Cannot use --json without a value"],
    ["--compare=yes", "--compare takes no value"],
    ["--verify=true", "--verify takes no value"],
  ];
  for (const [arg, message] of cases) assertThrows(() => parse(arg), UsageError, message);
});

Deno.test("edit distance counts insertions, deletions and replacements", () => {
  assertEquals(editDistance("", "abc"), 3);
  assertEquals(editDistance("kitten", "sitting"), 3);
  assertEquals(editDistance("same", "same"), 0);
});

Deno.test("the nearest word is only named when it is near", () => {
  assertEquals(nearest("sqe", ["seq", "steps"]), undefined);
  assertEquals(nearest("se", ["seq", "steps"]), "seq");
  assertEquals(nearest("step", ["seq", "steps"]), "steps");
  assertEquals(nearest("anything", []), undefined);
});

Deno.test("help names every flag, its values and the examples", () => {
  const help = formatHelp({ usage: "u", summary: "s", examples: [["do --it", "why"]], exitCodes: "e" }, BENCH_FLAGS);
  for (const [name, { values }] of Object.entries(BENCH_FLAGS)) {
    assertStringIncludes(help, values ? `--${name}=${values}` : `--${name}`);
  }
  assertStringIncludes(help, "  # why\n  do --it\n");
});
