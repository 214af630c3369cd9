import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { readCheckpoint } from "@mst/core";
import { isAlive, runCommand, startCommand, survivors } from "../_support/processes.ts";
import { withTempDir } from "../_support/temp_dir.ts";

/** A run that saves all the time, of steps that take a moment. */
const SAVING = "--device=reference --layers=2 --dim=32 --heads=2 --ffn=32 --seq=12 --save-every=1 --schedule=constant";
const ENDLESS = [...SAVING.split(" "), "--steps=1000000", "--timeout=10"];

/** Bytes of one of its checkpoints, about: 12 for each of 29,000 parameters. */
const CHECKPOINT_KIB = 350;

/** Ends a rank, or the launcher, once a step has been saved, some time after. */
async function endWhileSaving(
  folder: string,
  flags: string,
  rank: number | undefined,
  delayMs: number,
): Promise<string> {
  const command = startCommand("main.ts", [...ENDLESS, ...flags.split(" "), `--save=${folder}`]);
  let ranks: number[] = [];
  try {
    await command.says("step 2 saved");
    ranks = command.ranks();
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    Deno.kill(rank === undefined ? command.pid : ranks[rank], "SIGKILL");
    const { code, stderr } = await command.result;
    assert(code !== 0);
    assertEquals(await survivors(ranks, 3000), []);
    return stderr;
  } finally {
    for (const pid of [command.pid, ...ranks]) if (isAlive(pid)) Deno.kill(pid, "SIGKILL");
  }
}

Deno.test("whenever a rank or the launcher is killed, a whole checkpoint is there, from which the run goes on", () =>
  withTempDir(async (temp) => {
    const folder = `${temp}/c`;
    const faults: [flags: string, rank: number | undefined, delayMs: number][] = [
      ["--ranks=2", 0, 0],
      ["--ranks=2 --shard=optimizer", 1, 7],
      ["--strategy=megatron --ranks=2", 0, 19],
      ["--strategy=single", 0, 31],
      ["--ranks=2 --shard=weights", undefined, 3],
    ];
    for (const [flags, rank, delayMs] of faults) {
      const stderr = await endWhileSaving(folder, flags, rank, delayMs);
      if (rank !== undefined) assertMatch(stderr, new RegExp(`rank ${rank} failed: its process was ended by SIGKILL`));
      const { state } = await readCheckpoint(folder);
      const saved = stderr.matchAll(/step (\d+) saved/g).map(([, step]) => Number(step)).toArray().at(-1)!;
      assert(state.step >= saved, `step ${state.step} is there, ${saved} was told`);
      const args = ["--device=reference", `--resume=${folder}`, `--save=${folder}`, `--steps=${state.step + 1}`];
      const { code, stderr: resumed } = await runCommand("main.ts", args);
      assertEquals(code, 0, resumed);
      assertStringIncludes(resumed, `step ${state.step + 1} saved to ${folder}`);
      assertEquals(await Array.fromAsync(Deno.readDir(temp), ({ name }) => name), ["c"], "nothing is left beside it");
      await Deno.remove(folder, { recursive: true });
    }
  }));

/** A command in a name space of its own, in which a folder is a small disk. */
function onSmallDisk(folder: string, kib: number, script = ":"): string[] {
  const mount = `mount -t tmpfs -o size=${kib}k tmpfs ${folder}`;
  return ["unshare", "--mount", "sh", "-c", `${mount} && "$@"; code=$?; ${script}; exit $code`, "sh"];
}

const canMount = await new Deno.Command("unshare", {
  args: ["--mount", "sh", "-c", "mount -t tmpfs tmpfs /tmp"],
  stderr: "null",
}).output().then(({ success }) => success, () => false);

Deno.test({
  name: `a disk that gets full ends the run and leaves the checkpoint before${
    canMount ? "" : " (needs unshare, as root)"
  }`,
  ignore: !canMount,
  fn: () =>
    withTempDir(async (temp) => {
      await Deno.mkdir(`${temp}/disk`);
      await Deno.mkdir(`${temp}/copy`);
      const folder = `${temp}/disk/c`;
      const args = [...ENDLESS, "--ranks=2", `--save=${folder}`];
      // Room for one, but not for the next beside it.
      const within = onSmallDisk(`${temp}/disk`, 1.5 * CHECKPOINT_KIB, `cp -r ${temp}/disk/. ${temp}/copy`);
      const { code, stderr } = await runCommand("main.ts", args, { within });
      assertEquals(code, 1, stderr);
      const why = "No space left on device (os error 28); the earlier checkpoint there is as it was";
      assertStringIncludes(stderr, `rank 0 failed: CheckpointError: Cannot save a checkpoint to ${folder}: ${why}`);
      assertEquals((await readCheckpoint(`${temp}/copy/c`)).state.step, 1);
      assertEquals(await Array.fromAsync(Deno.readDir(`${temp}/copy`), ({ name }) => name), ["c"]);

      const small = onSmallDisk(`${temp}/disk`, 0.5 * CHECKPOINT_KIB);
      const refused = await runCommand("main.ts", args, { within: small });
      assertEquals(refused.code, 2, refused.stderr);
      assertMatch(refused.stderr, /Cannot save a checkpoint to .*: the disk has \d+ bytes free, wanted \d+/);
    }),
});
