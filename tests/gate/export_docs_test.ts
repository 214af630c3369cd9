import { assertEquals } from "@std/assert";
import { checkExportDocs } from "../../tools/gate/export_docs.ts";
import { packageTree } from "./_trees.ts";

/** Names that the check reports for a core whose mod.ts re-exports all of one file with `text`. */
function undocumented(text: string, mod = `export * from "./backend/ops.ts";`): string[] {
  const tree = packageTree({ "core/mod.ts": mod, "core/backend/ops.ts": text });
  return checkExportDocs(tree).map((problem) => /Cannot export (\S+) without/.exec(problem)![1]);
}

Deno.test("documented exports of every kind pass", () => {
  assertEquals(
    undocumented(`
      /** A constant. */
      export const TILE = 16;
      /** A function. */
      export function matmul(): void {}
      /** A type. */
      export type Shape = {
        /** Rows. */
        rows: number;
      };
      /** A choice. */
      export enum Layout {
        /** Row by row. */
        Rows,
      }
      /** An interface. */
      export interface Ops {
        /** A method. */
        add(): void;
        /** A property. */
        readonly name: string;
      }
      /** A class. */
      export class Tape {
        #length = 0;
        private hidden = 1;
        /** @param label what the tape is called */
        constructor(readonly label: string) {}
        /** Its length. */
        get length(): number { return this.#length; }
        set length(value: number) { this.#length = value; }
        #grow(): void {}
        protected shrink(): void {}
      }
      function helper(): void {}
    `),
    [],
  );
});

Deno.test("an export of every kind without a comment is reported", () => {
  const text = `
    export const TILE = 16;
    export function matmul(): void {}
    export type Shape = number[];
    export enum Layout {}
    export interface Ops {}
    export class Tape {}
    const late = 1;
    export { late as renamed };
    export default function main(): void {}
  `;
  assertEquals(
    undocumented(text).sort(),
    ["Layout", "Ops", "Shape", "TILE", "Tape", "default", "late", "matmul"].sort(),
  );
});

Deno.test("a comment without text, and one that is no documentation comment, do not count", () => {
  assertEquals(
    undocumented(`/** */ export const a = 1; /* Text. */ export const b = 1; // Text.\n export const c = 1;`),
    [
      "a",
      "b",
      "c",
    ],
  );
});

Deno.test("members without a comment are reported", () => {
  const text = `
    /** An interface. */ export interface Ops { add(): void; readonly name: string }
    /** A class. */ export class Tape {
      constructor(readonly label: string) {}
      length = 0;
      static create(): void {}
      get size(): number { return 0; }
    }
    /** A type. */ export type Shape = { rows: number } | { columns: number };
    /** A choice. */ export enum Layout { Rows }
  `;
  assertEquals(
    undocumented(text).sort(),
    [
      "Ops.add",
      "Ops.name",
      "Tape.label",
      "Tape.length",
      "Tape.create",
      "Tape.size",
      "Shape.rows",
      "Shape.columns",
      "Layout.Rows",
    ].sort(),
  );
});

Deno.test("each signature of an overloaded function or method needs a comment, the implementation none", () => {
  const text = `
    /** Of a number. */
    export function size(value: number): number;
    export function size(value: string): number;
    export function size(value: unknown): number { return Number(value); }
    /** A class. */
    export class Tape {
      /** Of a number. */
      put(value: number): void;
      /** Of a text. */
      put(value: string): void;
      put(value: unknown): void { this.put(value as number); }
    }
  `;
  assertEquals(undocumented(text), ["size"]);
  assertEquals(undocumented(text.replace("/** Of a text. */", "")), ["size", "Tape.put"]);
});

Deno.test("a class may leave comments to the interface that it implements or the class that it extends", () => {
  const text = `
    /** An interface. */ export interface Ops {
      /** Adds. */
      add(): void;
    }
    /** A class. */ export class Base implements Ops {
      add(): void {}
      /** Multiplies. */
      mul(): void {}
    }
    /** A class. */ export class Fast extends Base { override mul(): void {} more(): void {} }
    /** An error. */ export class TopologyError extends Error { override name = "TopologyError"; ranks = 1; }
  `;
  assertEquals(undocumented(text), ["Fast.more", "TopologyError.ranks"]);
});

Deno.test("members need comments only where users of the package see them, exports everywhere", () => {
  const text = `/** An interface. */ export interface Ops { add(): void }\nexport const hidden = 1;`;
  assertEquals(undocumented(text, `export {};`), ["hidden"]);
  assertEquals(undocumented(text, `export { type Ops } from "./backend/ops.ts";`).sort(), ["Ops.add", "hidden"]);
});

Deno.test("re-exports through another package lead to the declaration", () => {
  const tree = packageTree({
    "core/mod.ts": `export * from "./backend/ops.ts";`,
    "core/backend/ops.ts": `\nexport const bare = 1;`,
    "ring/mod.ts": `export { bare } from "@mst/core";`,
  });
  assertEquals(checkExportDocs(tree), [
    "packages/core/backend/ops.ts:2: Cannot export bare without a documentation comment",
  ]);
});
