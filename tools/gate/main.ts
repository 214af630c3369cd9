/**
 * The gate: runs every stage, prints a line for each, and exits with 1 if any does not pass.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { readSourceTree, type SourceTree } from "./source_tree.ts";
import { type Stage, STAGES } from "./stages.ts";

const USAGE = `Usage: deno task ok [--only=STAGE,…] [--without=STAGE,…]
Stages: ${STAGES.map((stage) => stage.name).join(", ")}`;

/** Runs `stages` one after the other, also after one that did not pass, and resolves to the names of those. */
async function runStages(stages: readonly Stage[], tree: SourceTree): Promise<string[]> {
  const failed: string[] = [];
  for (const stage of stages) {
    const startMs = performance.now();
    const { passed, details } = await stage.run(tree);
    const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
    console.log(`${passed ? "ok    " : "FAILED"}  ${stage.name.padEnd(8)} ${seconds.padStart(6)} s`);
    if (passed) continue;
    failed.push(stage.name);
    console.log(details.replace(/^/gm, "        "));
  }
  return failed;
}

/** Stages that the flags `only` and `without` leave, or undefined if one of them names no stage. */
function selectStages(only: string, without: string): Stage[] | undefined {
  const [wanted, unwanted] = [only, without].map((list) => list.split(",").filter((name) => name !== ""));
  const known = [...wanted, ...unwanted].every((name) => STAGES.some((stage) => stage.name === name));
  if (!known) return undefined;
  return STAGES.filter(({ name }) => (wanted.length === 0 || wanted.includes(name)) && !unwanted.includes(name));
}

async function main(args: readonly string[]): Promise<number> {
  const strays: string[] = [];
  const flags = parseArgs(args, {
    string: ["only", "without"],
    boolean: ["help"],
    default: { only: "", without: "" },
    unknown: (arg) => strays.push(arg),
  });
  const stages = selectStages(flags.only, flags.without);
  if (flags.help || strays.length > 0 || !stages) {
    console.log(USAGE);
    return flags.help ? 0 : 2;
  }
  const failed = await runStages(stages, await readSourceTree("."));
  console.log(failed.length === 0 ? "The gate is open" : `The gate is shut: ${failed.join(", ")}`);
  return failed.length === 0 ? 0 : 1;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
