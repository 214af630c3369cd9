/**
 * How much memory of the host this process has used.
 *
 * @module
 */

/** Most resident bytes so far (Linux), or the resident bytes at present. */
export async function hostPeakBytes(): Promise<number> {
  const status = await Deno.readTextFile("/proc/self/status").catch(() => "");
  const [, kibibytes] = status.match(/^VmHWM:\s*(\d+) kB$/m) ?? [];
  return kibibytes === undefined ? Deno.memoryUsage().rss : Number(kibibytes) * 1024;
}
