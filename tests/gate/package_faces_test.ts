import { assertEquals } from "@std/assert";
import { checkPackageFaces } from "../../tools/gate/package_faces.ts";
import { packageTree } from "./_trees.ts";

const TARGETS = { check: { command: "deno check" }, test: { command: "deno task test tests/unit" }, bench: {} };

const FACE = {
  "core/mod.ts": `/**\n * All of it.\n *\n * @module\n */\nexport * from "./tensor/shape.ts";\n`,
  "core/project.json": JSON.stringify({ name: "core", targets: TARGETS }),
  "core/README.md": "# core\n\n```ts\nrun();\n```\n",
};

function faceTree(files: Readonly<Record<string, string>> = {}): Map<string, string> {
  return packageTree({ ...FACE, ...files }).set("tests/unit/shape_test.ts", "");
}

Deno.test("a package with a whole face passes", () => {
  assertEquals(checkPackageFaces(faceTree()), []);
});

Deno.test("each missing file is named", () => {
  const { "core/README.md": _, "core/project.json": __, ...rest } = FACE;
  assertEquals(checkPackageFaces(packageTree(rest)), [
    "packages/core: Cannot find project.json, README.md: every package has them",
  ]);
});

Deno.test("a wrong name, a missing version, exports or target are named", () => {
  const tree = faceTree({
    "core/deno.json": JSON.stringify({ name: "core" }),
    "core/project.json": JSON.stringify({ name: "kernel", targets: { check: {}, bench: {} } }),
  });
  assertEquals(checkPackageFaces(tree), [
    "packages/core/deno.json: Cannot accept the name core: use @mst/core",
    "packages/core/deno.json: Cannot find a version",
    "packages/core/deno.json: Cannot find exports",
    "packages/core/project.json: Cannot accept the name kernel: use core",
    "packages/core/project.json: Cannot find the targets test",
    "tests/unit: Cannot tell which project runs these tests: no project.json names it, exactly one test target must",
  ]);
});

Deno.test("a mod.ts without documentation, or with declarations of its own, is refused", () => {
  const tree = faceTree({ "core/mod.ts": `export * from "./a.ts";\nexport const version = 1;\n` });
  assertEquals(checkPackageFaces(tree), [
    "packages/core/mod.ts: Cannot find the module's documentation: start with a comment that has @module",
    "packages/core/mod.ts:2: Cannot declare anything in mod.ts: it only re-exports",
  ]);
});

Deno.test("a README without an example is refused", () => {
  assertEquals(checkPackageFaces(faceTree({ "core/README.md": "# core\n" })), [
    "packages/core/README.md: Cannot find an example: show one in a ts or sh block",
  ]);
});

Deno.test("every folder of tests belongs to exactly one project", () => {
  const tree = faceTree({
    "core/project.json": JSON.stringify({
      name: "core",
      targets: { ...TARGETS, test: { command: "deno task test tests/unit tests/memory tests/gone" } },
    }),
  });
  tree.set("tools/project.json", JSON.stringify({ targets: { test: { command: "deno task test tests/memory" } } }));
  tree.set("tests/_support/compare.ts", "");
  tree.set("tests/memory/a_test.ts", "");
  tree.set("tests/units/a_test.ts", "");
  assertEquals(checkPackageFaces(tree), [
    "tests/memory: Cannot tell which project runs these tests: it is named in packages/core/project.json and " +
    "tools/project.json, exactly one test target must",
    "tests/units: Cannot tell which project runs these tests: no project.json names it, exactly one test target must",
    "packages/core/project.json: Cannot run tests/gone: there is no such folder of tests",
  ]);
});
