/**
 * The error of a command line that cannot be run.
 *
 * @module
 */

/** A command line asks for what does not exist or does not fit; ends the command with exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}
