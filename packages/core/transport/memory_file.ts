/**
 * Anonymous files in memory that several processes of a host map: what one writes the others see, without a copy. By
 * `memfd_create` and `mmap` of Linux.
 *
 * @module
 */

/** As it shows in the names of links to it. */
const NAME = "mst";

const CLOSE_ON_EXEC = 1; // of memfd_create
const OPEN_READ_WRITE = 2;
const PROTECT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_FAILED = 2n ** 64n - 1n;

/** A mapped file. It stays mapped until the process ends, since arrays on it may live as long. */
export interface MemoryFile {
  /** Where processes of the same user find it, for as long as the one that created it lives. */
  readonly path: string;
  /** Its memory from a byte on. */
  view(start: number, bytes: number): ArrayBuffer;
}

/**
 * Creates a file of zeros. It takes memory only where it is written to, and is gone with the processes that map it.
 *
 * @throws {Error} where the system has none, does not let this process have it, or has no room for addresses
 */
export function createMemoryFile(bytes: number): MemoryFile {
  const { symbols } = openLibrary();
  const descriptor = symbols.memfd_create(cString(NAME), CLOSE_ON_EXEC);
  if (descriptor < 0 || symbols.ftruncate(descriptor, BigInt(bytes)) < 0) {
    throw new Error(`Cannot create a memory file of ${bytes} bytes: the system refuses it`);
  }
  try {
    return map(symbols, descriptor, bytes, `/proc/${Deno.pid}/fd/${descriptor}`);
  } catch (error) {
    symbols.close(descriptor);
    throw error;
  }
}

/**
 * Maps a file of `bytes` that another process has created. A path of another host may be that of any file here, and
 * memory beyond the end of a file ends the process that reads it, so both are looked at first.
 *
 * @throws {Error} where there is none of that length or this process may not open it
 */
export function openMemoryFile(path: string, bytes: number): MemoryFile {
  const { symbols } = openLibrary();
  const descriptor = isMemoryFile(path, bytes) ? symbols.open(cString(path), OPEN_READ_WRITE) : -1;
  if (descriptor < 0) {
    throw new Error(`Cannot open the memory file ${path}: there is none of ${bytes} bytes, or it is another user's`);
  }
  try {
    return map(symbols, descriptor, bytes, path);
  } finally {
    symbols.close(descriptor);
  }
}

function isMemoryFile(path: string, bytes: number): boolean {
  try {
    return Deno.readLinkSync(path) === `/memfd:${NAME} (deleted)` && Deno.statSync(path).size === bytes;
  } catch {
    return false;
  }
}

type Library = ReturnType<typeof openLibrary>["symbols"];

function openLibrary() {
  return Deno.dlopen("libc.so.6", {
    memfd_create: { parameters: ["buffer", "u32"], result: "i32" },
    ftruncate: { parameters: ["i32", "i64"], result: "i32" },
    open: { parameters: ["buffer", "i32"], result: "i32" },
    mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"], result: "pointer" },
    close: { parameters: ["i32"], result: "i32" },
  });
}

function map(library: Library, descriptor: number, bytes: number, path: string): MemoryFile {
  const start = library.mmap(null, BigInt(bytes), PROTECT_READ_WRITE, MAP_SHARED, descriptor, 0n);
  if (!start || Deno.UnsafePointer.value(start) === MAP_FAILED) {
    throw new Error(`Cannot map ${bytes} bytes of the memory file ${path}: the system refuses it`);
  }
  return { path, view: (from, length) => Deno.UnsafePointerView.getArrayBuffer(start, length, from) };
}

function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}
