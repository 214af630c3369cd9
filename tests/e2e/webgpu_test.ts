import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import { benchReport, SMALL } from "../_support/bench_report.ts";
import { runCommand } from "../_support/processes.ts";

const GOLDEN = new URL("../golden/", import.meta.url).pathname;
const hasGpu = Boolean(await navigator.gpu?.requestAdapter());

/** Without a GPU driver a test fails when MST_REQUIRE_GPU is 1, and is ignored otherwise. */
function gpuTest(name: string, fn: () => Promise<void>): void {
  const ignore = !hasGpu && Deno.env.get("MST_REQUIRE_GPU") !== "1";
  if (ignore) console.warn(`Ignored, since there is no GPU driver (MST_REQUIRE_GPU=1 makes this fail): ${name}`);
  Deno.test({ name, ignore, fn });
}

for (
  const flags of [
    "--strategy=single --mini-sequence=3",
    "--ranks=2 --recompute=none",
    "--ranks=3 --mini-sequence=7 --recompute=selective",
    "--ranks=3 --shard=optimizer",
    "--ranks=3 --shard=weights",
    "--strategy=ulysses --ranks=2 --shard=gradients",
    "--ranks=4 --placement=contiguous",
    "--strategy=ulysses --ranks=2",
    "--strategy=ulysses --ranks=4 --mini-sequence=7 --recompute=none",
    "--strategy=usp --ulysses=2 --ring=2 --mini-sequence=7",
    "--strategy=megatron --ranks=2",
    "--strategy=megatron --ranks=4 --mini-sequence=3 --recompute=none",
  ]
) {
  gpuTest(`golden cases over processes, WebGPU: ${flags}`, async () => {
    const cases = ["llama3", "llama2", "llama31"].map((name) => `${GOLDEN}${name}`);
    const { code, stdout, stderr } = await runCommand("verify_main.ts", [
      ...cases,
      "--device=webgpu",
      ...flags.split(" "),
    ]);
    assertEquals(code, 0, stdout + stderr);
    assertStringIncludes(stdout, "3 passed, 0 failed, 0 not verified");
  });
}

gpuTest(
  "WebGPU is the default where there is a driver, and a ring that updates in backward computes what one rank does",
  async () => {
    const update = ["--clip=0", "--optimizer-in-backward"];
    const { report, stdout } = await benchReport([...SMALL, "--ranks=3", ...update, "--verify"]);
    const [{ config, summary }] = report.runs;
    assertEquals([config.device, config.ranks], ["webgpu", 3]);
    assert(report.comparisons!.every(({ passed }) => passed));
    assert(summary.communicationHidden! >= 0 && summary.communicationHidden! <= 1);
    assertStringIncludes(stdout, summary.deviceName);
  },
);

gpuTest("--profile prints the time of kernels on the device", async () => {
  const { report } = await benchReport([...SMALL, "--strategy=single", "--profile"]);
  const { profile, computeMs, optimizerMs, stepMs } = report.runs[0].summary;
  assert(profile!.some(({ kernel, totalMs }) => kernel.includes("matmul") && totalMs > 0));
  assert(computeMs > 0 && optimizerMs > 0 && computeMs + optimizerMs <= 1.01 * stepMs.max);
});

gpuTest("a variant without enough memory is a row of --compare", async () => {
  // Logits of all rows at once are more than the largest buffer; a mini-sequence of them is many times smaller.
  const [vocab, seqTokens] = [8192, 10];
  const { maxBufferSize } = (await navigator.gpu.requestAdapter())!.limits;
  const batch = Math.ceil(1.02 * maxBufferSize / (4 * vocab * seqTokens));
  const shape = `--layers=1 --dim=64 --heads=4 --kv-heads=4 --ffn=8 --vocab=${vocab} --seq=${seqTokens}`.split(" ");
  const args = [...shape, `--batch=${batch}`, "--strategy=single", "--steps=1", "--compare"];
  const { report, stdout } = await benchReport(args);
  const [vanilla, recompute, both] = report.runs;
  for (const { outOfMemory, summary } of [vanilla, recompute]) {
    assertMatch(outOfMemory!, /rank 0 failed: .*larg/);
    assertEquals(summary, undefined);
  }
  assert(Number.isFinite(both.summary.losses[0]));
  assertEquals(report.ratios!.length, 1);
  assertLess(both.summary.peakDeviceBytes, maxBufferSize);
  assertStringIncludes(stdout, "out of memory");
});
