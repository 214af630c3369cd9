/**
 * Folders that are replaced as a whole: whatever happens meanwhile, the earlier one or the next is there.
 *
 * The next one is written beside the earlier one under `.mst-saving` and brought to the disk. Then the earlier one makes
 * way under `.mst-old`, the next one takes its place, and the earlier one is removed. A folder cannot be renamed over another one,
 * so a crash can come between the two renames; {@linkcode recoverFolder} puts the earlier one back then.
 *
 * @module
 */

import { statfs } from "node:fs/promises";

/** A checkpoint cannot be written or read; the message names its folder. */
export class CheckpointError extends Error {
  override readonly name = "CheckpointError";
}

/** Where the next folder is written. */
function nextOf(folder: string): string {
  return `${folder}.mst-saving`;
}

/** Where the earlier folder makes way to. */
function earlierOf(folder: string): string {
  return `${folder}.mst-old`;
}

/** Options of {@linkcode replaceFolder}. */
export interface ReplaceFolderOptions {
  /** Names of the files that `write` makes. Others in the earlier folder are kept. */
  readonly files: readonly string[];
  /** Makes the files in a folder, and brings them to the disk. */
  readonly write: (folder: string) => Promise<void>;
}

/**
 * Replaces a folder, or makes it.
 *
 * @throws {CheckpointError} when it cannot be written; the earlier folder is left as it is
 */
export async function replaceFolder(folder: string, { files, write }: ReplaceFolderOptions): Promise<void> {
  const place = await placeOf(folder);
  const next = nextOf(place);
  const earlier = earlierOf(place);
  try {
    await recoverFolder(place);
    await removeFolder(next);
    await Deno.mkdir(next, { recursive: true });
    await write(next);
    await syncFolder(next);
    if (await isFolder(place)) {
      await keepOthers(earlier, place, files);
      await Deno.rename(place, earlier);
    }
    await Deno.rename(next, place);
    await syncFolder(parentOf(place));
  } catch (cause) {
    await removeFolder(next).catch(() => {});
    await recoverFolder(place).catch(() => {});
    if (!isFileSystemError(cause)) throw cause;
    const kept = await isFolder(place) ? "; the earlier checkpoint there is as it was" : "";
    throw new CheckpointError(`Cannot save a checkpoint to ${folder}: ${cause.message}${kept}`, { cause });
  }
  await keepOthers(earlier, place, files);
}

/** Puts an earlier folder back that made way for one that never came. */
export async function recoverFolder(folder: string): Promise<void> {
  const earlier = earlierOf(folder);
  if (!await isFolder(folder) && await isFolder(earlier)) await Deno.rename(earlier, folder);
}

/** What has to be known to see whether a folder can be replaced. */
export interface CheckFolderOptions {
  /** The file without which a folder that is not empty is none to replace. */
  readonly mark: string;
  /** Bytes that will be written. */
  readonly bytes: number;
}

/**
 * Refuses a folder that could not be replaced after a long run.
 *
 * @throws {CheckpointError} when it holds something else, cannot be written, or the disk has no room
 */
export async function checkReplaceable(folder: string, { mark, bytes }: CheckFolderOptions): Promise<void> {
  const refuse = (why: string, cause?: unknown) =>
    new CheckpointError(`Cannot save a checkpoint to ${folder}: ${why}`, { cause });
  const place = await placeOf(folder);
  try {
    await recoverFolder(place);
    const names = await namesIn(place);
    if (names.length > 0 && !names.includes(mark)) {
      throw refuse(`it holds ${names.sort()[0]} and is no checkpoint, wanted an empty folder, a checkpoint or none`);
    }
    await removeFolder(nextOf(place));
    await Deno.mkdir(nextOf(place), { recursive: true });
    const { bavail, bsize } = await statfs(nextOf(place));
    await removeFolder(nextOf(place));
    if (bavail * bsize < bytes) throw refuse(`the disk has ${bavail * bsize} bytes free, wanted ${bytes}`);
  } catch (cause) {
    if (!isFileSystemError(cause)) throw cause;
    throw refuse(cause.message, cause);
  }
}

/** Moves what is not of a checkpoint out of the folder that made way, and removes it. */
async function keepOthers(earlier: string, place: string, files: readonly string[]): Promise<void> {
  for (const name of await namesIn(earlier)) {
    if (files.includes(name)) continue;
    const isTaken = await Deno.lstat(`${place}/${name}`).then(() => true, () => false);
    if (!isTaken) await Deno.rename(`${earlier}/${name}`, `${place}/${name}`);
  }
  await removeFolder(earlier);
}

/** The folder itself where a link leads to it, without a slash at its end. */
async function placeOf(folder: string): Promise<string> {
  const path = folder.replace(/(?<=.)\/+$/, "");
  return await Deno.realPath(path).catch(() => path);
}

function parentOf(path: string): string {
  const at = path.lastIndexOf("/");
  return at < 0 ? "." : path.slice(0, at + 1);
}

async function namesIn(folder: string): Promise<string[]> {
  if (await isMissing(folder)) return [];
  return await Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
}

async function removeFolder(folder: string): Promise<void> {
  if (!await isMissing(folder)) await Deno.remove(folder, { recursive: true });
}

async function isFolder(path: string): Promise<boolean> {
  return await Deno.stat(path).then(({ isDirectory }) => isDirectory, () => false);
}

async function isMissing(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => false, (error) => error instanceof Deno.errors.NotFound);
}

/** Brings the names in a folder to the disk, where the system lets a folder be opened. */
async function syncFolder(folder: string): Promise<void> {
  if (Deno.build.os === "windows") return;
  using file = await Deno.open(folder);
  await file.sync();
}

/** Errors of the system have a code, such as ENOSPC, or a class in `Deno.errors`. */
function isFileSystemError(error: unknown): error is Error {
  return error instanceof Error &&
    ("code" in error || Object.values(Deno.errors).some((kind) => error instanceof kind));
}
