import { assertEquals } from "@std/assert";
import { checkImportCycles } from "../../tools/gate/import_cycles.ts";
import { packageTree } from "./_trees.ts";

Deno.test("a diamond of imports is no cycle", () => {
  const tree = packageTree({
    "core/a.ts": `import "./b.ts"; import "./c.ts";`,
    "core/b.ts": `import "./d.ts";`,
    "core/c.ts": `import "./d.ts"; import "node:path"; import "zod";`,
    "core/d.ts": "",
  });
  assertEquals(checkImportCycles(tree), []);
});

Deno.test("a cycle is reported once, with its files in order", () => {
  const tree = packageTree({
    "core/entry.ts": `import "./a.ts";`,
    "core/a.ts": `import "./b.ts";`,
    "core/b.ts": `import type { C } from "./c.ts";`,
    "core/c.ts": `export * from "./a.ts";`,
  });
  assertEquals(checkImportCycles(tree), [
    "packages/core/a.ts: Cannot import in a circle: " +
    "packages/core/a.ts → packages/core/b.ts → packages/core/c.ts → packages/core/a.ts",
  ]);
});

Deno.test("a cycle through two packages and a file that imports itself are found", () => {
  const tree = packageTree({
    "core/mod.ts": `export * from "@mst/ring";`,
    "ring/mod.ts": `export * from "@mst/core";`,
    "ring/self.ts": `import "./self.ts";`,
  });
  assertEquals(checkImportCycles(tree), [
    "packages/core/mod.ts: Cannot import in a circle: " +
    "packages/core/mod.ts → packages/ring/mod.ts → packages/core/mod.ts",
    "packages/ring/self.ts: Cannot import in a circle: packages/ring/self.ts → packages/ring/self.ts",
  ]);
});
