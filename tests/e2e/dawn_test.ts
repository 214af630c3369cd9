import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { probeHardware } from "../../packages/bench/hardware/probe.ts";
import { runCommand } from "../_support/processes.ts";

const GOLDEN = new URL("../golden/llama3", import.meta.url).pathname;
const KERNELS = new URL("../_support/dawn_kernels_main.ts", import.meta.url).pathname;

/** A Vulkan driver's description (`VK_DRIVER_FILES`) to use where the system's own does not do for Dawn. */
const driver = Deno.env.get("MST_DAWN_DRIVER");

/** Compiling takes Mesa 25 longer than running all of this, and half as long without optimization. */
const environment: Record<string, string> = driver ? { VK_DRIVER_FILES: driver, GALLIVM_PERF: "nopt" } : {};

const hasDawn = driver !== undefined || Boolean((await probeHardware("dawn")).dawn?.adapter);

/** With MST_DAWN_DRIVER a test has to pass; without it is ignored where the system has no driver that Dawn takes. */
function dawnTest(name: string, fn: () => Promise<void>): void {
  if (!hasDawn) console.warn(`Ignored, since no driver serves Dawn (MST_DAWN_DRIVER names one): ${name}`);
  Deno.test({ name, ignore: !hasDawn, fn });
}

dawnTest("kernels, transfers and errors by Dawn are those of the reference", async () => {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--lock=tools/gate/deno.lock", KERNELS],
    env: { XDG_RUNTIME_DIR: "/tmp", NO_COLOR: "1", ...environment },
    stdin: "null",
  });
  const { code, stdout, stderr } = await child.output();
  const [text, errors] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  assertEquals([code, text], [0, "done\n"], errors);
});

dawnTest("a golden case, ten steps of training in it, by Dawn", async () => {
  const { code, stdout, stderr } = await runCommand("verify_main.ts", [
    GOLDEN,
    "--device=dawn",
    "--strategy=single",
    "--mini-sequence=3",
  ], { environment });
  assertEquals(code, 0, stdout + stderr);
  assertStringIncludes(stdout, "1 passed, 0 failed, 0 not verified");
});

Deno.test("--device=dawn without a driver says what is missing and what helps", async () => {
  const args = ["--device=dawn", "--model=tiny"];
  const { code, stderr } = await runCommand("main.ts", args, { environment: { VK_DRIVER_FILES: "/dev/null" } });
  assertEquals(code, 2);
  assertMatch(stderr, /Cannot use --device=dawn: no GPU driver; it needs a GPU's driver, or Mesa 23 or newer/);
});
