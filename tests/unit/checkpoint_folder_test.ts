import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import {
  CheckpointError,
  checkReplaceable,
  recoverFolder,
  replaceFolder,
} from "../../packages/core/train/checkpoint_folder.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const FILES = ["a", "b"];

/** Writes `text` to both files, or fails behind the first. */
function writer(text: string, failure?: Error) {
  return async (folder: string) => {
    await Deno.writeTextFile(`${folder}/a`, text);
    if (failure) throw failure;
    await Deno.writeTextFile(`${folder}/b`, text);
  };
}

async function contents(folder: string): Promise<Record<string, string>> {
  const names = (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => {
      return [name, await Deno.readTextFile(`${folder}/${name}`)] as const;
    })),
  );
}

async function siblings(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
}

Deno.test("a folder is made, and replaced as a whole; what is not of a checkpoint stays in it", () =>
  withTempDir(async (temp) => {
    const folder = `${temp}/deep/c`;
    await replaceFolder(folder, { files: FILES, write: writer("1") });
    assertEquals(await contents(folder), { a: "1", b: "1" });
    await Deno.writeTextFile(`${folder}/notes`, "mine");
    await replaceFolder(`${folder}/`, { files: FILES, write: writer("2") });
    assertEquals(await contents(folder), { a: "2", b: "2", notes: "mine" });
    assertEquals(await siblings(`${temp}/deep`), ["c"]);
  }));

Deno.test("a link to a folder stays a link", () =>
  withTempDir(async (temp) => {
    await Deno.mkdir(`${temp}/far`);
    await Deno.symlink(`${temp}/far`, `${temp}/near`);
    await replaceFolder(`${temp}/near`, { files: FILES, write: writer("1") });
    assert((await Deno.lstat(`${temp}/near`)).isSymlink);
    assertEquals(await contents(`${temp}/far`), { a: "1", b: "1" });
  }));

Deno.test("a failure leaves the earlier folder as it was, and names it where the file system failed", () =>
  withTempDir(async (temp) => {
    const folder = `${temp}/c`;
    await replaceFolder(folder, { files: FILES, write: writer("1") });
    const full = Object.assign(new Error("No space left on device (os error 28)"), { code: "ENOSPC" });
    const { message } = await assertRejects(
      () => replaceFolder(folder, { files: FILES, write: writer("2", full) }),
      CheckpointError,
    );
    assertEquals(
      message,
      `Cannot save a checkpoint to ${folder}: No space left on device (os error 28); the earlier checkpoint there is as it was`,
    );
    const other = new RangeError("not of the file system");
    await assertRejects(() => replaceFolder(folder, { files: FILES, write: writer("2", other) }), RangeError, "not of");
    assertEquals(await contents(folder), { a: "1", b: "1" });
    assertEquals(await siblings(temp), ["c"]);
  }));

Deno.test("whatever a crash leaves behind, the earlier folder or the next is there, whole", () =>
  withTempDir(async (temp) => {
    const folder = `${temp}/c`;
    const leave = async (name: string, text: string, files = FILES) => {
      await Deno.mkdir(`${temp}/${name}`);
      for (const file of files) await Deno.writeTextFile(`${temp}/${name}/${file}`, text);
    };
    const crashes: [name: string, left: () => Promise<void>, found: string][] = [
      ["while the next is written", async () => {
        await leave("c", "1");
        await leave("c.mst-saving", "2", ["a"]);
      }, "1"],
      ["between the renames", async () => {
        await leave("c.mst-old", "1");
        await leave("c.mst-saving", "2");
      }, "1"],
      ["while the earlier one is removed", async () => {
        await leave("c.mst-old", "1", ["b"]);
        await leave("c", "2");
      }, "2"],
    ];
    for (const [name, left, found] of crashes) {
      await left();
      await recoverFolder(folder);
      assertEquals(await contents(folder), { a: found, b: found }, name);
      await replaceFolder(folder, { files: FILES, write: writer("3") });
      assertEquals(await contents(folder), { a: "3", b: "3" }, name);
      assertEquals(await siblings(temp), ["c"], name);
      await Deno.remove(folder, { recursive: true });
    }
  }));

Deno.test("folders that cannot be replaced are refused before anything is written", () =>
  withTempDir(async (temp) => {
    const check = (folder: string, bytes = 1) => checkReplaceable(folder, { mark: "b", bytes });
    const refused = async (folder: string, why: string, bytes?: number) => {
      const { message } = await assertRejects(() => check(folder, bytes), CheckpointError);
      assertStringIncludes(message, `Cannot save a checkpoint to ${folder}: ${why}`);
    };
    await check(`${temp}/none`);
    await Deno.mkdir(`${temp}/thesis`);
    await check(`${temp}/thesis`);
    await Deno.writeTextFile(`${temp}/thesis/chapter`, "1");
    await refused(
      `${temp}/thesis`,
      "it holds chapter and is no checkpoint, wanted an empty folder, a checkpoint or none",
    );
    await Deno.writeTextFile(`${temp}/thesis/b`, "");
    await check(`${temp}/thesis`);
    await refused(`${temp}/thesis/chapter`, "");
    await refused(`${temp}/thesis/chapter/c`, "");
    await refused("/proc/c", "");
    await refused(`${temp}/none`, "the disk has ", 2 ** 60);
    assertEquals(await siblings(temp), ["thesis"]);
  }));
