/**
 * A TypeScript program over the files of the tree, which lets a check follow re-exports and inherited members.
 *
 * @module
 */
import { resolveImport } from "./imports.ts";
import { type SourceTree, typeScriptFiles } from "./source_tree.ts";
import { ts } from "./typescript.ts";

/** Creates a program of every file of the packages. It knows no library types, so its diagnostics mean nothing. */
export function createProgram(tree: SourceTree): ts.Program {
  const options: ts.CompilerOptions = { noLib: true, noEmit: true, allowImportingTsExtensions: true };
  const host: ts.CompilerHost = {
    getSourceFile: (name, target) => {
      const text = tree.get(name);
      return text === undefined ? undefined : ts.createSourceFile(name, text, target, true);
    },
    resolveModuleNameLiterals: (literals, importer) =>
      literals.map(({ text }) => {
        const resolvedFileName = resolveImport(tree, importer, text);
        if (resolvedFileName === undefined || !tree.has(resolvedFileName)) return { resolvedModule: undefined };
        return { resolvedModule: { resolvedFileName, extension: ts.Extension.Ts } };
      }),
    fileExists: (name) => tree.has(name),
    readFile: (name) => tree.get(name),
    writeFile: () => {},
    getDefaultLibFileName: () => "lib.d.ts",
    getCurrentDirectory: () => "",
    getCanonicalFileName: (name) => name,
    useCaseSensitiveFileNames: () => true,
    getNewLine: () => "\n",
  };
  return ts.createProgram(typeScriptFiles(tree, ["packages"]), options, host);
}
