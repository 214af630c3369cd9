/**
 * Writing reports for programs.
 *
 * @module
 */

/** Writes a value as JSON. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await Deno.writeTextFile(path, `${JSON.stringify(value, undefined, 2)}\n`);
}
