/**
 * Small source trees for the tests of the gate's checks.
 *
 * @module
 */
import { packageNames } from "../../tools/gate/source_tree.ts";

/** A tree of files below `packages`, where every package without a deno.json gets one that exports its mod.ts. */
export function packageTree(files: Readonly<Record<string, string>>): Map<string, string> {
  const tree = new Map(Object.entries(files).map(([path, text]) => [`packages/${path}`, text]));
  for (const name of packageNames(tree)) {
    const path = `packages/${name}/deno.json`;
    if (!tree.has(path)) {
      tree.set(path, JSON.stringify({ name: `@mst/${name}`, version: "0.1.0", exports: "./mod.ts" }));
    }
  }
  return tree;
}
