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
  const commands = [...tree].filter(([path]) => path.endsWith("/project.json"))
    .map(([path, text]) => [path, String(JSON.parse(text).targets?.test?.command ?? "")] as const);
  const areas = new Set(
    typeScriptFiles(tree, ["tests"]).map((path) => path.split("/")[1]).filter((name) => !name.endsWith(".ts")),
  );
  const problems: string[] = [];
  for (const area of areas) {
    if (TEST_SUPPORT_FOLDERS.includes(area)) continue;
    const owners = commands.filter(([, command]) => command.split(/\s+/).includes(`tests/${area}`)).map(([path]) =>
      path
    );
    if (owners.length !== 1) {
      const found = owners.length === 0 ? "no project.json names it" : `it is named in ${owners.join(" and ")}`;
      problems.push(
        `tests/${area}: Cannot tell which project runs these tests: ${found}, exactly one test target must`,
      );
    }
  }
  return problems;
}
