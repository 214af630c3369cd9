/**
 * Writing reports for programs.
 *
 * @module
 */

import { UsageError } from "../cli/usage_error.ts";

/**
 * Writes a value as JSON.
 *
 * @throws {UsageError} when the file cannot be written, such as on a full disk
 */
export async function writeJson(path: string, value: unknown): Promise<void> {
  try {
    await Deno.writeTextFile(path, `${JSON.stringify(value, undefined, 2)}\n`);
  } catch (cause) {
    throw new UsageError(`Cannot write the report to --json=${path}: ${(cause as Error).message}`, { cause });
  }
}
