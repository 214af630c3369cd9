import { assertEquals } from "@std/assert";
import { checkImportDirection, coreLayerOf } from "../../tools/gate/import_direction.ts";
import { packageTree } from "./_trees.ts";

Deno.test("imports that follow the rules pass", () => {
  const tree = packageTree({
    "core/mod.ts": `export { matmul } from "./backend/ops.ts"; export { train } from "./train/trainer.ts";`,
    "core/backend/ops.ts": `import type { Shape } from "../tensor/shape.ts"; export const matmul = 1;`,
    "core/tensor/shape.ts": `export type Shape = number[];`,
    "core/train/trainer.ts": `import { matmul } from "../backend/ops.ts"; export const train = matmul;`,
    "ring/mod.ts": `export { ring } from "./ring_strategy.ts";`,
    "ring/ring_strategy.ts":
      `import { train } from "@mst/core"; import { z } from "zod"; export const ring = [train, z];`,
    "bench/mod.ts": `import { train } from "@mst/core"; import { ring } from "@mst/ring"; console.log(train, ring);`,
  });
  assertEquals(checkImportDirection(tree), []);
});

Deno.test("core may not import a strategy, nor one strategy another", () => {
  const tree = packageTree({
    "core/model/decoder.ts": `import "@mst/ring";`,
    "ring/mod.ts": `\nimport { all } from "@mst/ulysses";`,
    "ulysses/mod.ts": `export const all = 1;`,
  });
  assertEquals(checkImportDirection(tree), [
    "packages/core/model/decoder.ts:1: Cannot import ring from core: core may import nothing",
    "packages/ring/mod.ts:2: Cannot import ulysses from ring: ring may import core",
  ]);
});

Deno.test("lower layers of core may not import upper ones, by value, type, re-export or dynamic import", () => {
  const upper = "packages/core/train/trainer.ts";
  for (
    const statement of [
      `import { step } from "../train/trainer.ts";`,
      `import type { Step } from "../train/trainer.ts";`,
      `export * from "../train/trainer.ts";`,
      `await import("../train/trainer.ts");`,
    ]
  ) {
    const tree = packageTree({ "core/tensor/shape.ts": statement, "core/train/trainer.ts": "" });
    assertEquals(tree.has(upper), true);
    assertEquals(checkImportDirection(tree), [
      "packages/core/tensor/shape.ts:1: Cannot import core/train from core/tensor: core/tensor may import config",
    ]);
  }
});

Deno.test("the two backends may not import each other, though both import the contract", () => {
  const tree = packageTree({
    "core/backend/ops.ts": "",
    "core/backend/reference/matmul.ts": `import "../ops.ts";`,
    "core/backend/webgpu/matmul.ts": `import "../ops.ts"; import "../reference/matmul.ts";`,
  });
  assertEquals(checkImportDirection(tree), [
    "packages/core/backend/webgpu/matmul.ts:1: Cannot import core/backend/reference from core/backend/webgpu: " +
    "core/backend/webgpu may import config, tensor, memory, backend",
  ]);
});

Deno.test("a model may import the strategy's contract but no strategy", () => {
  const tree = packageTree({
    "core/strategy/strategy.ts": "",
    "core/strategy/single.ts": `import "./strategy.ts";`,
    "core/model/attention.ts": `import "../strategy/strategy.ts";`,
    "core/model/decoder.ts": `import "../strategy/single.ts";`,
  });
  const problems = checkImportDirection(tree);
  assertEquals(problems.length, 1);
  assertEquals(problems[0].startsWith("packages/core/model/decoder.ts:1: Cannot import core/strategy from"), true);
});

Deno.test("packages are imported by name from outside and by path from inside", () => {
  const tree = packageTree({
    "core/mod.ts": "",
    "core/train/trainer.ts": `import "@mst/core";`,
    "ring/mod.ts": `import "../core/mod.ts";`,
  });
  assertEquals(checkImportDirection(tree), [
    "packages/core/train/trainer.ts:1: Cannot import @mst/core inside core: " +
    "a package imports its own files by relative path",
    "packages/ring/mod.ts:1: Cannot import ../core/mod.ts from ring: import another package by its name, @mst/core",
  ]);
});

Deno.test("packages, layers, files and entry points that nobody knows are refused", () => {
  const tree = packageTree({
    "core/mod.ts": "",
    "core/extras/thing.ts": `import "../mod.ts";`,
    "core/tensor/shape.ts": `import "./gone.ts";`,
    "ring/mod.ts": `import "@mst/core/internal"; import "../../tests/helper.ts";`,
    "novel/mod.ts": `import "@mst/core";`,
  });
  tree.set("tests/helper.ts", "");
  assertEquals(checkImportDirection(tree), [
    "packages/core/extras/thing.ts:1: Cannot judge packages/core/extras/thing.ts: " +
    "it lies in no layer of CORE_LAYERS of tools/gate/rules.ts",
    "packages/core/tensor/shape.ts:1: Cannot find ./gone.ts: there is no file packages/core/tensor/gone.ts",
    "packages/novel/mod.ts:1: Cannot judge package novel: it is missing in PACKAGE_IMPORTS of tools/gate/rules.ts",
    "packages/ring/mod.ts:1: Cannot find @mst/core/internal: no package exports it",
    "packages/ring/mod.ts:1: Cannot import ../../tests/helper.ts from ring: packages import nothing from tests or tools",
  ]);
});

Deno.test("a file belongs to the most specific layer", () => {
  assertEquals(coreLayerOf("packages/core/backend/ops.ts"), "backend");
  assertEquals(coreLayerOf("packages/core/backend/webgpu/kernels/matmul.ts"), "backend/webgpu");
  assertEquals(coreLayerOf("packages/core/strategy/strategy.ts"), "strategy/strategy.ts");
  assertEquals(coreLayerOf("packages/core/strategy/single.ts"), "strategy");
  assertEquals(coreLayerOf("packages/core/strategyless/single.ts"), undefined);
});
