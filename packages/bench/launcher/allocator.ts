/**
 * Making the allocator of a rank's process keep what it frees.
 *
 * @module
 */

/**
 * glibc's settings (mallopt(3)), which other allocators ignore. By default it maps every large block afresh, and the
 * system hands over its pages one fault at a time, which costs several times the copying of what a rank reads from its
 * device and from its peers. So blocks come from the heap, the heap is never trimmed, and all threads share it, since a
 * thread's own heap cannot hold blocks of 64 MiB.
 */
const KEEP_FREED_MEMORY: Readonly<Record<string, string>> = {
  MALLOC_MMAP_MAX_: "0",
  MALLOC_TRIM_THRESHOLD_: String(2 ** 40),
  MALLOC_TOP_PAD_: String(64 * 2 ** 20),
  MALLOC_ARENA_MAX: "1",
};

/** Environment of a process that reads and receives large blocks over and over; none where the user has set any of it. */
export function allocatorEnvironment(
  environment: Readonly<Record<string, string>> = Deno.env.toObject(),
): Readonly<Record<string, string>> {
  return Object.keys(environment).some((name) => name.startsWith("MALLOC_")) ? {} : KEEP_FREED_MEMORY;
}
