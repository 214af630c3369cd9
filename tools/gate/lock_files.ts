/**
 * Lock files. Deno installs every package of the lock file that it runs with, so the root's holds only what the
 * packages of the workspace import, and the tools have lock files of their own.
 *
 * @module
 */
import { TOOL_LOCK_FILES } from "./rules.ts";
import type { SourceTree } from "./source_tree.ts";

interface LockFile {
  readonly specifiers?: Readonly<Record<string, string>>;
  readonly npm?: Readonly<Record<string, unknown>>;
}

/** A package of npm pinned to one version, with or without a path inside it. */
const PINNED = /^(npm:(?:@[^/]+\/)?[^@/]+@\d+\.\d+\.\d+[^/]*)(?:\/.*)?$/;

/**
 * Reports packages in the root's lock file that the import map does not name, versions that are not pinned, and tools
 * that use other versions.
 */
export function checkLockFiles(tree: SourceTree): string[] {
  const imports = Object.values(JSON.parse(tree.get("deno.json")!).imports as Record<string, string>);
  const wanted = imports.filter((target) => target.startsWith("npm:"));
  const pinned = wanted.map((target) => PINNED.exec(target)?.[1]);
  const root: LockFile = JSON.parse(tree.get("deno.lock")!);
  const locked = Object.keys(root.specifiers ?? {});
  const problems: string[] = [];
  for (const [i, specifier] of pinned.entries()) {
    if (specifier === undefined) problems.push(`deno.json: Cannot accept ${wanted[i]}: pin one version`);
    else if (!locked.includes(specifier)) problems.push(`deno.lock: Cannot find ${specifier}, which deno.json imports`);
  }
  for (const specifier of locked.filter((each) => !pinned.includes(each))) {
    problems.push(`deno.lock: Cannot keep ${specifier}: deno.json does not import it, and the bench would download it`);
  }
  return [...problems, ...TOOL_LOCK_FILES.flatMap((path) => driftProblems(tree, path, root))];
}

/** The packages that the root's lock file names must be the same ones in a tool's lock file. */
function driftProblems(tree: SourceTree, path: string, root: LockFile): string[] {
  const text = tree.get(path);
  if (text === undefined) return [`${path}: Cannot find this lock file`];
  const tool: LockFile = JSON.parse(text);
  return Object.entries(root.specifiers ?? {})
    .filter(([specifier, version]) => tool.specifiers?.[specifier] !== version)
    .map(([specifier, version]) => `${path}: Cannot find ${specifier} at ${version}, as deno.lock has it`);
}
