/**
 * Launching with progress on stderr.
 *
 * @module
 */

import { describeSharing } from "../hardware/gpu_devices.ts";
import { launch, type LaunchOptions } from "../launcher/launch.ts";
import type { LaunchedRank } from "../launcher/rank_protocol.ts";
import { Progress, stderrOutput } from "../report/progress.ts";

/**
 * Runs a job as {@linkcode launch} does and shows its steps; the terminal's line is clear again when it returns or
 * throws.
 *
 * @param name what the lines start with
 */
export async function launchShown(
  name: string,
  options: Omit<LaunchOptions, "onEvent">,
): Promise<readonly LaunchedRank[]> {
  const { ranks, device } = options.job.run;
  const sharing = device === "reference" ? undefined : await describeSharing({ gpus: options.gpus, ranks });
  if (sharing) console.error(`${name}: ${sharing}`);
  const progress = new Progress(stderrOutput(), options.job.run, name, options.host?.ranks[0]);
  try {
    return await launch({ ...options, onEvent: (rank, event) => progress.event(rank, event) });
  } finally {
    progress.end();
  }
}
