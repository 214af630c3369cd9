/**
 * Runs nx on this Deno. Tasks that nx starts find the same `deno` first on PATH, so a machine whose only Deno came with
 * npx works too; no daemon stays behind, and nothing is asked or reported.
 *
 * nx has its own lock file, since Deno installs every package of a lock file and the bench must not download nx.
 *
 * @module
 */
import { delimiter, dirname } from "node:path";

const NX = "npm:nx@23.2.1";
const LOCK_FILE = "tools/nx/deno.lock";

/** Runs nx with `args` and resolves to its exit code. */
async function runNx(args: readonly string[]): Promise<number> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "-q", `--lock=${LOCK_FILE}`, NX, ...args],
    env: {
      PATH: [dirname(Deno.execPath()), Deno.env.get("PATH") ?? ""].join(delimiter),
      NX_DAEMON: "false",
      NX_NO_CLOUD: "true",
      NX_TUI: "false",
      NX_INTERACTIVE: "false",
    },
  });
  return (await command.spawn().status).code;
}

if (import.meta.main) Deno.exit(await runNx(Deno.args));
