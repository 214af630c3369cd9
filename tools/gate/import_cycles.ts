/**
 * Cycles of imports between files.
 *
 * @module
 */
import { importsOf, resolveImport } from "./imports.ts";
import { type SourceTree, typeScriptFiles } from "./source_tree.ts";

/** Reports the files of every group that import one another in a circle. Imports of types count as imports. */
export function checkImportCycles(tree: SourceTree): string[] {
  const graph = new Map<string, string[]>();
  for (const path of typeScriptFiles(tree, ["packages", "tests", "tools"])) {
    const targets = importsOf(tree.get(path)!).map(({ specifier }) => resolveImport(tree, path, specifier));
    graph.set(path, targets.filter((target) => target !== undefined && tree.has(target)) as string[]);
  }
  const reported = new Set<string>();
  const problems: string[] = [];
  for (const start of graph.keys()) {
    if (reported.has(start)) continue;
    const cycle = shortestCycle(graph, start);
    if (!cycle) continue;
    for (const path of cycle) reported.add(path);
    problems.push(`${start}: Cannot import in a circle: ${[...cycle, start].join(" → ")}`);
  }
  return problems;
}

/** Breadth first from `start` until an edge leads back to it. */
function shortestCycle(graph: ReadonlyMap<string, string[]>, start: string): string[] | undefined {
  const cameFrom = new Map<string, string>();
  const queue = [start];
  for (const path of queue) {
    for (const next of graph.get(path) ?? []) {
      if (next === start) return pathBack(cameFrom, start, path);
      if (cameFrom.has(next)) continue;
      cameFrom.set(next, path);
      queue.push(next);
    }
  }
  return undefined;
}

function pathBack(cameFrom: ReadonlyMap<string, string>, start: string, end: string): string[] {
  const path = [end];
  while (path[0] !== start) path.unshift(cameFrom.get(path[0])!);
  return path;
}
