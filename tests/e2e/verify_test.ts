import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { SafetensorsFile, writeSafetensors } from "@mst/core";
import { runCommand } from "../_support/processes.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const GOLDEN = new URL("../golden/", import.meta.url).pathname;
const CASES = ["llama3", "llama2", "llama31"].map((name) => `${GOLDEN}${name}`);

interface VerifyReport {
  readonly tolerances: Record<string, { reason: string }>;
  readonly folders: readonly {
    readonly folder: string;
    readonly comparisons?: readonly { name: string; passed: boolean; used: number; tolerance: unknown }[];
    readonly unreadable?: string;
  }[];
}

/** A copy of the llama3 folder whose golden tensor `name` is changed. */
async function spoil(folder: string, name: string, change: (data: Float32Array) => void): Promise<void> {
  for (const file of ["config.json", "model.safetensors"]) {
    await Deno.copyFile(`${GOLDEN}llama3/${file}`, `${folder}/${file}`);
  }
  using golden = await SafetensorsFile.open(`${GOLDEN}llama3/golden.safetensors`);
  const tensors = new Map<string, { shape: readonly number[]; data: Float32Array | Uint32Array }>();
  for (const [each, { shape, dtype }] of golden.entries) {
    const data = dtype === "I32" ? await golden.readIntegers(each) : await golden.readFloats(each);
    if (each === name) change(data as Float32Array);
    tensors.set(each, { shape, data });
  }
  await writeSafetensors(`${folder}/golden.safetensors`, tensors);
}

for (
  const flags of [
    "--strategy=single --mini-sequence=off --recompute=none",
    "--ranks=2 --mini-sequence=7 --recompute=selective",
    "--ranks=3 --placement=contiguous",
    "--ranks=4",
    "--strategy=ulysses --ranks=2 --recompute=none",
    "--strategy=ulysses --ranks=4",
    "--strategy=usp --ulysses=2 --ring=2 --placement=contiguous --recompute=none",
    "--strategy=megatron --ranks=2 --recompute=none",
    "--strategy=megatron --ranks=4",
    "--ranks=3 --shard=optimizer",
    "--ranks=3 --shard=weights --recompute=none",
    "--strategy=ulysses --ranks=2 --shard=gradients",
    "--strategy=usp --ranks=4 --shard=weights",
  ]
) {
  Deno.test(`golden cases over processes, reference backend: ${flags}`, () =>
    withTempDir(async (folder) => {
      const json = `${folder}/report.json`;
      const args = [...CASES, "--device=reference", ...flags.split(" "), `--json=${json}`];
      const { code, stdout, stderr } = await runCommand("verify_main.ts", args);
      assertEquals(code, 0, stdout + stderr);
      assertStringIncludes(stdout, "3 passed, 0 failed, 0 not verified");
      const { folders, tolerances }: VerifyReport = JSON.parse(await Deno.readTextFile(json));
      assertEquals(folders.length, 3);
      for (const { comparisons } of folders) {
        assertEquals(comparisons!.length, 2 + 2 * 9 + 3 + 1, "loss, logits, 21 gradients and losses");
        assert(comparisons!.every(({ passed }) => passed));
      }
      assert(Object.values(tolerances).every(({ reason }) => reason.length > 20));
    }));
}

Deno.test("numbers off by more than the tolerance end with exit code 1 and are named", async () => {
  const cases: [tensor: string, change: (data: Float32Array) => void][] = [
    ["loss", (data) => data[0] *= 1 + 3e-5],
    ["logits", (data) => data[4000] += 2e-4],
    ["grad.model.layers.1.mlp.up_proj.weight", (data) => data[77] += 1e-5],
    ["losses", (data) => data[9] *= 1 + 3e-4],
  ];
  for (const [tensor, change] of cases) {
    await withTempDir(async (folder) => {
      await spoil(folder, tensor, change);
      const args = [folder, "--device=reference", "--strategy=single"];
      const { code, stdout } = await runCommand("verify_main.ts", args);
      assertEquals(code, 1, stdout);
      const exceeded = stdout.split("\n").filter((line) => line.endsWith("EXCEEDED"));
      assertEquals(exceeded.map((line) => line.split(" ")[0]), [tensor]);
      assertStringIncludes(stdout, "0 passed, 1 failed, 0 not verified");
    });
  }
});

Deno.test("folders that cannot be read do not keep others from being verified", async () => {
  const args = [`${GOLDEN}mistral`, `${GOLDEN}llama2`, "/nonexistent", "--device=reference", "--strategy=single"];
  const { code, stdout, stderr } = await runCommand("verify_main.ts", args);
  assertEquals(code, 2);
  assertMatch(stderr, /Cannot verify .*mistral: UnsupportedModelError: .*model_type "mistral"/);
  assertStringIncludes(stderr, "Cannot verify /nonexistent");
  assertStringIncludes(stdout, "1 passed, 0 failed, 2 not verified");
});

Deno.test("a folder with a torn file is refused with what is wrong", () =>
  withTempDir(async (folder) => {
    await spoil(folder, "", () => {});
    const args = [folder, "--device=reference", "--strategy=single"];
    const tear = async (file: string, bytes: number) => {
      const { size } = await Deno.stat(`${folder}/${file}`);
      await Deno.truncate(`${folder}/${file}`, size - bytes);
    };
    await tear("golden.safetensors", 5);
    const golden = await runCommand("verify_main.ts", args, { denyProcesses: true });
    assertEquals(golden.code, 2);
    assertMatch(golden.stderr, /golden\.safetensors: its tensors take \d+ bytes, but only \d+ follow the header/);
    await spoil(folder, "", () => {});
    await tear("model.safetensors", 5);
    const model = await runCommand("verify_main.ts", args, { denyProcesses: true });
    assertEquals(model.code, 2);
    assertMatch(model.stderr, /model\.safetensors: its tensors take \d+ bytes/);
  }));

Deno.test("a sequence too short for the ranks is refused, and heads that do not fit them", async () => {
  const cases = [
    ["--ranks=62", "Cannot split 61 tokens across 62 ranks"],
    ["--strategy=usp --ulysses=3 --ring=2", "Cannot split 4 heads across 3 ranks"],
    ["--strategy=megatron --ranks=3", "Cannot split 4 heads across 3 ranks: heads must be a multiple of the ranks"],
    ["--strategy=megatron --ranks=2 --shard=weights", "Cannot shard weights under megatron"],
    ["--strategy=ulysses --ranks=3", "Cannot split 4 heads across 3 ranks: heads must be a multiple of the ranks"],
  ];
  for (const [flags, says] of cases) {
    const args = [`${GOLDEN}llama2`, "--device=reference", ...flags.split(" ")];
    const { code, stderr } = await runCommand("verify_main.ts", args, { denyProcesses: true });
    assertEquals(code, 2);
    assertStringIncludes(stderr, says);
  }
});
