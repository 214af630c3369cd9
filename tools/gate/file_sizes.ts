/**
 * Lengths of source files.
 *
 * @module
 */
import { MAX_FILE_LINES } from "./rules.ts";
import { type SourceTree, typeScriptFiles } from "./source_tree.ts";

/** Reports every TypeScript file that has more than `MAX_FILE_LINES` lines. */
export function checkFileSizes(tree: SourceTree): string[] {
  const problems: string[] = [];
  for (const path of typeScriptFiles(tree, ["packages", "tests", "tools"])) {
    const lines = tree.get(path)!.trimEnd().split("\n").length;
    if (lines > MAX_FILE_LINES) {
      problems.push(`${path}: Cannot keep ${lines} lines in one file: ${MAX_FILE_LINES} at most`);
    }
  }
  return problems;
}
