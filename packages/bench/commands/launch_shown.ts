/**
 * Launching with progress on stderr.
 *
 * @module
 */

import { launch, type LaunchedRank, type LaunchOptions } from "../launcher/launch.ts";
import { Progress, stderrOutput } from "../report/progress.ts";

/**
 * Runs a job as {@linkcode launch} does and shows its steps; the terminal's line is clear again when it returns or
 * throws.
 *
 * @param name what the lines start with
 */
export async function launchShown(name: string, options: Omit<LaunchOptions, "onEvent">): Promise<LaunchedRank[]> {
  const progress = new Progress(stderrOutput(), options.job.run, name);
  try {
    return await launch({ ...options, onEvent: (rank, event) => progress.event(rank, event) });
  } finally {
    progress.end();
  }
}
