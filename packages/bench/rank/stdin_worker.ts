/**
 * Worker that reads this process's stdin and ends the process with it, also while the main thread is busy: a rank must
 * not outlive its launcher.
 *
 * @module
 */

import { linesOf } from "../launcher/lines.ts";

// The types of a worker's global scope clash with those of a window, which the other files have.
const scope = self as unknown as { postMessage(line: string): void };

for await (const line of linesOf(Deno.stdin.readable)) scope.postMessage(line);
Deno.kill(Deno.pid, "SIGKILL");
