/**
 * The project's files as the checks see them: text by path, so that a test can hand a check a tree of its own.
 *
 * @module
 */

/** Text of every file, by its path from the project's root with forward slashes. */
export type SourceTree = ReadonlyMap<string, string>;

/** Folders that hold sources. */
const SOURCE_FOLDERS = ["packages", "tests", "tools"];

/** Files in the root that a check reads. */
const ROOT_FILES = ["deno.json", "deno.lock"];

/** Sources, configuration, documents and lock files; data stays unread. */
const READ_EXTENSIONS = [".ts", ".md", "deno.json", "project.json", "deno.lock"];

/** Reads the tree below `root`. */
export async function readSourceTree(root: string): Promise<SourceTree> {
  const tree = new Map<string, string>();
  for (const name of ROOT_FILES) tree.set(name, await Deno.readTextFile(`${root}/${name}`));
  for (const folder of SOURCE_FOLDERS) await readFolder(root, folder, tree);
  return tree;
}

/** Paths of the TypeScript files in `tree` that lie in one of `folders`, sorted. */
export function typeScriptFiles(tree: SourceTree, folders: readonly string[]): string[] {
  return [...tree.keys()]
    .filter((path) => path.endsWith(".ts") && folders.some((folder) => path.startsWith(`${folder}/`)))
    .sort();
}

/** Names of the packages in `tree`, sorted: the folders right below `packages`. */
export function packageNames(tree: SourceTree): string[] {
  const names = [...tree.keys()].map((path) => /^packages\/([^/]+)\//.exec(path)?.[1]);
  return [...new Set(names.filter((name) => name !== undefined))].sort();
}

async function readFolder(root: string, folder: string, tree: Map<string, string>): Promise<void> {
  for await (const entry of Deno.readDir(`${root}/${folder}`)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory && entry.name !== "node_modules") await readFolder(root, path, tree);
    else if (entry.isFile && READ_EXTENSIONS.some((end) => path.endsWith(end))) {
      tree.set(path, await Deno.readTextFile(`${root}/${path}`));
    }
  }
}
