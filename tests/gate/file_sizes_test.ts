import { assertEquals } from "@std/assert";
import { checkFileSizes } from "../../tools/gate/file_sizes.ts";
import { MAX_FILE_LINES } from "../../tools/gate/rules.ts";

Deno.test("a file may have as many lines as the limit, and not one more", () => {
  const full = "x;\n".repeat(MAX_FILE_LINES);
  assertEquals(checkFileSizes(new Map([["packages/core/a.ts", full], ["packages/core/b.md", full + full]])), []);
  const paths = ["packages/core/a.ts", "tests/unit/a_test.ts", "tools/gate/a.ts"];
  assertEquals(
    checkFileSizes(new Map(paths.map((path) => [path, `${full}x;\n`]))),
    paths.map((path) => `${path}: Cannot keep ${MAX_FILE_LINES + 1} lines in one file: ${MAX_FILE_LINES} at most`),
  );
});
