/**
 * Import direction between packages, and between the layers of core.
 *
 * @module
 */
import { type Import, importsOf, packageOf, resolveImport } from "./imports.ts";
import { CORE_LAYERS, PACKAGE_IMPORTS } from "./rules.ts";
import { type SourceTree, typeScriptFiles } from "./source_tree.ts";

/** Reports every import of a package that points the wrong way, or that the rules do not know. */
export function checkImportDirection(tree: SourceTree): string[] {
  const problems: string[] = [];
  for (const path of typeScriptFiles(tree, ["packages"])) {
    for (const each of importsOf(tree.get(path)!)) {
      const problem = problemOf(tree, path, each);
      if (problem) problems.push(`${path}:${each.line}: ${problem}`);
    }
  }
  return problems;
}

/** Name of the layer of core that a path lies in: the longest one that fits. */
export function coreLayerOf(path: string): string | undefined {
  const inside = path.replace(/^packages\/core\//, "");
  return Object.keys(CORE_LAYERS)
    .filter((layer) => inside === layer || inside.startsWith(`${layer}/`))
    .sort((a, b) => b.length - a.length)[0];
}

function problemOf(tree: SourceTree, path: string, { specifier }: Import): string | undefined {
  const target = resolveImport(tree, path, specifier);
  const byName = specifier.startsWith("@mst/");
  if (target === undefined) return byName ? `Cannot find ${specifier}: no package exports it` : undefined;
  if (!tree.has(target)) return `Cannot find ${specifier}: there is no file ${target}`;
  const [from, to] = [packageOf(path)!, packageOf(target)];
  if (from !== to) return crossingProblem(from, to, specifier, byName);
  if (byName) return `Cannot import ${specifier} inside ${from}: a package imports its own files by relative path`;
  return from === "core" ? layerProblem(path, target) : undefined;
}

function crossingProblem(from: string, to: string | undefined, specifier: string, byName: boolean): string | undefined {
  if (to === undefined) return `Cannot import ${specifier} from ${from}: packages import nothing from tests or tools`;
  const allowed = PACKAGE_IMPORTS[from];
  if (!allowed) return `Cannot judge package ${from}: it is missing in PACKAGE_IMPORTS of tools/gate/rules.ts`;
  if (!allowed.includes(to)) return `Cannot import ${to} from ${from}: ${from} may import ${listed(allowed)}`;
  return byName ? undefined : `Cannot import ${specifier} from ${from}: import another package by its name, @mst/${to}`;
}

function layerProblem(path: string, target: string): string | undefined {
  if (path === "packages/core/mod.ts") return undefined;
  const [from, to] = [coreLayerOf(path), coreLayerOf(target)];
  if (!from || !to) {
    return `Cannot judge ${from ? target : path}: it lies in no layer of CORE_LAYERS of tools/gate/rules.ts`;
  }
  const allowed = CORE_LAYERS[from];
  if (from === to || allowed.includes(to)) return undefined;
  return `Cannot import core/${to} from core/${from}: core/${from} may import ${listed(allowed)}`;
}

function listed(names: readonly string[]): string {
  return names.length > 0 ? names.join(", ") : "nothing";
}
