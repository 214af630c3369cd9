/**
 * `deno task bench`.
 *
 * @module
 */

import { benchCommand } from "./commands/bench_command.ts";
import { runCommand } from "./commands/command.ts";

if (import.meta.main) await runCommand(benchCommand);
