import { assertEquals, assertGreater, assertStringIncludes } from "@std/assert";
import { readCheckpoint } from "@mst/core";
import { benchReport } from "../_support/bench_report.ts";
import { assertClose } from "../_support/compare.ts";
import { runCommand } from "../_support/processes.ts";
import { withTempDir } from "../_support/temp_dir.ts";

/** A schedule that does not depend on the number of steps, so that a shorter run is the start of a longer one. */
const TRAINING = "--layers=2 --dim=32 --heads=4 --kv-heads=2 --ffn=48 --seq=70 --seed=5 --schedule=constant".split(" ");
const REFERENCE = "--device=reference";

async function losses(flags: string, args: readonly string[] = []): Promise<readonly number[]> {
  const { report } = await benchReport([REFERENCE, ...args, ...flags.split(" ")]);
  return report.runs[0].summary.losses;
}

Deno.test("a run that is saved, and goes on under any strategy, has the losses of one that never stopped", () =>
  withTempDir(async (temp) => {
    const folder = `${temp}/checkpoint`;
    const straight = await losses("--ranks=3 --steps=4", TRAINING);
    const { stderr, stdout } = await benchReport([
      REFERENCE,
      ...TRAINING,
      ..."--ranks=3 --shard=weights --steps=2".split(" "),
      `--save=${folder}`,
    ]);
    assertStringIncludes(stderr, `ring: step 2 saved to ${folder}`);
    assertStringIncludes(stdout, `${folder}, after step 2`);
    const ways = ["--ranks=3 --shard=weights", "--strategy=single --recompute=none", "--strategy=ulysses --ranks=2"];
    ways.push("--strategy=usp --ranks=4 --shard=gradients", "--strategy=megatron --ranks=2 --mini-sequence=off");
    const resumed = await Promise.all(ways.map((way) => losses(`${way} --resume=${folder} --steps=4`)));
    for (const [i, values] of resumed.entries()) {
      // Rounding of f32 sums in another order, after steps of AdamW.
      assertClose(values, straight.slice(2), { relative: 1e-5, what: ways[i] });
    }
    assertGreater(Math.abs(straight[2] - straight[0]), 1e-2, "Steps change the loss by more than is tolerated");
  }));

Deno.test("a checkpoint replaces the one before, is a model folder, and goes on where it was to the bit", () =>
  withTempDir(async (temp) => {
    const folder = `${temp}/deep/checkpoint`;
    const straight = await losses("--ranks=2 --steps=5", TRAINING);
    await losses(`--ranks=2 --steps=3 --save-every=1 --save=${folder}`, TRAINING);
    assertEquals((await readCheckpoint(folder)).state.step, 3);
    const last = await losses(`--ranks=2 --steps=5 --save=${folder} --resume=${folder}/`);
    assertEquals(last, straight.slice(3));
    assertEquals((await readCheckpoint(folder)).state.step, 5);
    assertEquals(await Array.fromAsync(Deno.readDir(`${temp}/deep`), ({ name }) => name), ["checkpoint"]);

    const anew = await losses(`--model=${folder} --seq=70 --steps=1 --lr=1 --ranks=2`);
    assertGreater(straight[0] - anew[0], 0.1, "It starts from trained weights");
    const { code, stderr } = await runCommand("main.ts", [REFERENCE, `--resume=${folder}`, "--ranks=2"]);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "without --steps: it was saved after step 5 of 5, wanted the number of a later step");
  }));
