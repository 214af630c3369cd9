/**
 * The stages of the gate, in the order in which they run: what is quick to tell comes first.
 *
 * @module
 */
import { checkExportDocs } from "./export_docs.ts";
import { checkFileSizes } from "./file_sizes.ts";
import { checkImportCycles } from "./import_cycles.ts";
import { checkImportDirection } from "./import_direction.ts";
import { checkLockFiles } from "./lock_files.ts";
import { checkPackageFaces } from "./package_faces.ts";
import type { SourceTree } from "./source_tree.ts";

/** What a stage found. */
export interface StageResult {
  /** False if the gate has to stay shut. */
  readonly passed: boolean;
  /** What a person needs to see of a stage that did not pass. */
  readonly details: string;
}

/** One stage of the gate. */
export interface Stage {
  /** One word, as the gate prints it and `--only` and `--without` take it. */
  readonly name: string;
  /** Runs the stage on the project in the working directory, whose sources `tree` holds. */
  run(tree: SourceTree): StageResult | Promise<StageResult>;
}

/** All stages. */
export const STAGES: readonly Stage[] = [
  checkStage("faces", checkPackageFaces),
  checkStage("locks", checkLockFiles),
  checkStage("sizes", checkFileSizes),
  checkStage("imports", (tree) => [...checkImportDirection(tree), ...checkImportCycles(tree)]),
  checkStage("docs", checkExportDocs),
  commandStage("format", ["fmt", "--check"]),
  commandStage("lint", ["lint"]),
  commandStage("types", ["task", "check"]),
  commandStage("tests", ["task", "test"]),
];

/** A stage that passes if `check` finds no problem in the tree. */
export function checkStage(name: string, check: (tree: SourceTree) => readonly string[]): Stage {
  function run(tree: SourceTree): StageResult {
    const problems = check(tree);
    return { passed: problems.length === 0, details: problems.join("\n") };
  }
  return { name, run };
}

/** A stage that passes if this Deno, run with `args`, exits with 0. */
export function commandStage(name: string, args: readonly string[]): Stage {
  async function run(): Promise<StageResult> {
    const command = new Deno.Command(Deno.execPath(), { args: [...args], stdin: "null" });
    const { success, stdout, stderr } = await command.output();
    const decoder = new TextDecoder();
    return { passed: success, details: `${decoder.decode(stdout)}${decoder.decode(stderr)}`.trim() };
  }
  return { name, run };
}
