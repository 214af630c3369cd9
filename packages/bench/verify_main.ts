/**
 * `deno task verify`.
 *
 * @module
 */

import { runCommand } from "./commands/command.ts";
import { verifyCommand } from "./commands/verify_command.ts";

if (import.meta.main) await runCommand(verifyCommand);
