/**
 * The face that all packages share, and the nx project behind it.
 *
 * @module
 */
import { PACKAGE_FACE, PACKAGE_TARGETS, TEST_SUPPORT_FOLDERS } from "./rules.ts";
import { packageNames, type SourceTree, typeScriptFiles } from "./source_tree.ts";
import { ts } from "./typescript.ts";

/** Reports packages that lack a file or a target, and folders of tests that no nx project runs. */
export function checkPackageFaces(tree: SourceTree): string[] {
  const packages = packageNames(tree);
  return [...packages.flatMap((name) => packageProblems(tree, name)), ...testAreaProblems(tree)];
}

function packageProblems(tree: SourceTree, name: string): string[] {
  const folder = `packages/${name}`;
  const missing = PACKAGE_FACE.filter((file) => !tree.has(`${folder}/${file}`));
  if (missing.length > 0) return [`${folder}: Cannot find ${missing.join(", ")}: every package has them`];
  return [
    ...configProblems(tree, folder, name),
    ...projectProblems(tree, folder, name),
    ...modProblems(`${folder}/mod.ts`, tree.get(`${folder}/mod.ts`)!),
    ...readmeProblems(`${folder}/README.md`, tree.get(`${folder}/README.md`)!),
  ];
}

function configProblems(tree: SourceTree, folder: string, name: string): string[] {
  const path = `${folder}/deno.json`;
  const config = JSON.parse(tree.get(path)!);
  const problems: string[] = [];
  if (config.name !== `@mst/${name}`) problems.push(`${path}: Cannot accept the name ${config.name}: use @mst/${name}`);
  if (!config.version) problems.push(`${path}: Cannot find a version`);
  if (!config.exports) problems.push(`${path}: Cannot find exports`);
  return problems;
}

function projectProblems(tree: SourceTree, folder: string, name: string): string[] {
  const path = `${folder}/project.json`;
  const project = JSON.parse(tree.get(path)!);
  const problems: string[] = [];
  if (project.name !== name) problems.push(`${path}: Cannot accept the name ${project.name}: use ${name}`);
  const missing = PACKAGE_TARGETS.filter((target) => !project.targets?.[target]);
  if (missing.length > 0) problems.push(`${path}: Cannot find the targets ${missing.join(", ")}`);
  return problems;
}

/** A mod.ts opens with the module's documentation and otherwise only re-exports. */
function modProblems(path: string, text: string): string[] {
  const problems: string[] = [];
  if (!/^\/\*\*[^]*?@module[^]*?\*\//.test(text)) {
    problems.push(`${path}: Cannot find the module's documentation: start with a comment that has @module`);
  }
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const other = file.statements.find((statement) => !ts.isExportDeclaration(statement));
  if (other) {
    const line = file.getLineAndCharacterOfPosition(other.getStart(file)).line + 1;
    problems.push(`${path}:${line}: Cannot declare anything in mod.ts: it only re-exports`);
  }
  return problems;
}

function readmeProblems(path: string, text: string): string[] {
  return /^```(ts|sh)\n/m.test(text) ? [] : [`${path}: Cannot find an example: show one in a ts or sh block`];
}

/** Every folder of tests belongs to exactly one nx project, so that run-many runs each test once. */
function testAreaProblems(tree: SourceTree): string[] {
  const files = typeScriptFiles(tree, ["tests"]).map((path) => path.split("/"));
  const areas = new Set(
    files.filter(([, area, file]) => file && !TEST_SUPPORT_FOLDERS.includes(area)).map(([, area]) => area),
  );
  const owners = testAreaOwners(tree);
  const problems: string[] = [];
  for (const area of areas) {
    const projects = owners.get(area) ?? [];
    if (projects.length === 1) continue;
    const found = projects.length === 0 ? "no project.json names it" : `it is named in ${projects.join(" and ")}`;
    problems.push(`tests/${area}: Cannot tell which project runs these tests: ${found}, exactly one test target must`);
  }
  for (const [area, projects] of owners) {
    if (!areas.has(area)) problems.push(`${projects[0]}: Cannot run tests/${area}: there is no such folder of tests`);
  }
  return problems;
}

/** The project.json files whose test target names a folder below tests, by that folder. */
function testAreaOwners(tree: SourceTree): Map<string, string[]> {
  const owners = new Map<string, string[]>();
  for (const [path, text] of tree) {
    if (!path.endsWith("/project.json")) continue;
    const command = String(JSON.parse(text).targets?.test?.command ?? "");
    for (const [, area] of command.matchAll(/(?<= )tests\/(\S+)/g)) owners.set(area, [...owners.get(area) ?? [], path]);
  }
  return owners;
}
