/**
 * What a module imports, and which file of the tree that is.
 *
 * @module
 */
import { posix } from "node:path";
import type { SourceTree } from "./source_tree.ts";
import { ts } from "./typescript.ts";

/** One import or re-export of a module. */
export interface Import {
  /** The text between the quotes. */
  readonly specifier: string;
  /** Line of the specifier, from 1. */
  readonly line: number;
}

/** The imports, re-exports and literal dynamic imports of a module, in source order; imports of types count too. */
export function importsOf(text: string): Import[] {
  return ts.preProcessFile(text, true, true).importedFiles.map(({ fileName, pos }) => ({
    specifier: fileName,
    line: text.slice(0, pos).split("\n").length,
  }));
}

/**
 * Path of the file in `tree` that `specifier` stands for in the module at `importer`: a relative path, or a workspace
 * package by its name. Undefined for everything from outside.
 */
export function resolveImport(tree: SourceTree, importer: string, specifier: string): string | undefined {
  if (specifier.startsWith(".")) return posix.join(posix.dirname(importer), specifier);
  const [, name, subpath] = /^@mst\/([^/]+)(\/.+)?$/.exec(specifier) ?? [];
  if (name === undefined) return undefined;
  const target = packageExports(tree, name)[`.${subpath ?? ""}`];
  return target && posix.join("packages", name, target);
}

/** The `exports` of a package's deno.json, by entry point; a single path is the entry point `.`. */
export function packageExports(tree: SourceTree, name: string): Record<string, string> {
  const text = tree.get(`packages/${name}/deno.json`);
  if (text === undefined) return {};
  const { exports = {} } = JSON.parse(text) as { exports?: string | Record<string, string> };
  return typeof exports === "string" ? { ".": exports } : exports;
}

/** Name of the package that a path lies in. */
export function packageOf(path: string): string | undefined {
  return /^packages\/([^/]+)\//.exec(path)?.[1];
}
