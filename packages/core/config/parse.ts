/**
 * Validation of settings by their schema.
 *
 * @module
 */

import type { z } from "zod";

/**
 * The values as their schema has them, defaults filled in.
 *
 * @throws {RangeError} with one line per violated rule
 */
export function parseBySchema<S extends z.ZodType>(schema: S, values: unknown): z.output<S> {
  const result = schema.safeParse(values);
  if (result.success) return result.data;
  throw new RangeError(result.error.issues.map((issue) => [...issue.path, issue.message].join(": ")).join("\n"));
}
