import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { BenchReport } from "../_support/bench_report.ts";
import { benchReport, SMALL } from "../_support/bench_report.ts";
import { makeCertificate } from "../_support/certificate.ts";
import { freePort } from "../_support/free_port.ts";
import { type RunningCommand, startCommand } from "../_support/processes.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const TOKEN = "a token of sixteen characters or more";
const REFERENCE = ["--device=reference", ...SMALL];

/** Starts the command of one host. */
function startHost(args: readonly string[], token = TOKEN): RunningCommand {
  return startCommand("main.ts", [...REFERENCE, "--timeout=20", ...args], { environment: { MST_TOKEN: token } });
}

Deno.test("two hosts train together, in any order of starting, and both have the whole report", () =>
  withTempDir(async (folder) => {
    const rendezvous = `ws://127.0.0.1:${freePort()}`;
    const start = (rank: string) =>
      startHost(["--ranks=3", `--rendezvous=${rendezvous}`, `--rank=${rank}`, `--json=${folder}/${rank}.json`]);
    const early = start("1-2");
    await early.says(`ring: waiting for rank 0: nobody answers at ${rendezvous}`);
    const results = await Promise.all([early.result, start("0").result]);
    for (const { code, stdout, stderr } of results) {
      assertEquals(code, 0, stderr);
      assertMatch(stdout, /\n0 .*\n1 .*\n2 /, "a row of memory for each rank");
      assertMatch(stderr, /ring: step 3\/3 .* done/);
    }
    assertMatch(results[1].stderr, /ring: waiting for (ranks 1, 2|rank [12]) to join at ws:/);
    const reports = await Promise.all(
      ["1-2", "0"].map(async (rank): Promise<BenchReport> =>
        JSON.parse(await Deno.readTextFile(`${folder}/${rank}.json`))
      ),
    );
    assertEquals(reports[0].runs, reports[1].runs);
    const { report } = await benchReport([...REFERENCE, "--ranks=3"]);
    assertEquals(reports[0].runs[0].summary.losses, report.runs[0].summary.losses);
    assert(!JSON.stringify(reports).includes(TOKEN), "The secret is in no report");
  }));

Deno.test("two hosts train together over wss, with the certificate given", () =>
  withTempDir(async (folder) => {
    const { certificate, key } = await makeCertificate();
    await Deno.writeTextFile(`${folder}/cert.pem`, certificate);
    await Deno.writeTextFile(`${folder}/key.pem`, key);
    await Deno.writeTextFile(`${folder}/token`, `${TOKEN}\n`);
    const flags = [
      "--ranks=2",
      `--rendezvous=wss://127.0.0.1:${freePort()}`,
      `--certificate=${folder}/cert.pem`,
      `--key=${folder}/key.pem`,
      `--token-file=${folder}/token`,
    ];
    const hosts = ["0", "1"].map((rank) => startHost([...flags, `--rank=${rank}`], ""));
    for (const { code, stdout, stderr } of await Promise.all(hosts.map(({ result }) => result))) {
      assertEquals(code, 0, stderr);
      assertStringIncludes(stdout, "tokens/s");
    }
  }));

Deno.test("a host that was started with other flags or another text is refused, told why, and may start again", () =>
  withTempDir(async (folder) => {
    await Deno.writeTextFile(`${folder}/text.txt`, "a".repeat(400));
    const flags = ["--ranks=2", `--rendezvous=ws://127.0.0.1:${freePort()}`];
    const first = startHost([...flags, "--rank=0"]);
    const refused: [args: string[], says: RegExp][] = [
      [["--seq=60", "--lr=0.5"], /train\.seqTokens 60, and rank 0 with 70; with train\.learningRate 0\.5, and rank 0/],
      [[`--data=${folder}/text.txt`], /it was started with training text [0-9a-f]{16}, and rank 0 with [0-9a-f]{16}/],
    ];
    for (const [args, says] of refused) {
      const { code, stderr } = await startHost([...flags, "--rank=1", ...args]).result;
      assertEquals(code, 1, stderr);
      assertMatch(stderr, /error: rank 1 failed: Rank 0 refused this rank during rendezvous at step 0/);
      assertMatch(stderr, says);
    }
    await first.says("ring: waiting for rank 1, which was refused: it was started with training text");
    const second = await startHost([...flags, "--rank=1"]).result;
    assertEquals([second.code, (await first.result).code], [0, 0]);
  }));

for (const [signal, code] of [["SIGINT", 130], ["SIGKILL", 137]] as const) {
  Deno.test(`${signal} to the command of one host ends the other, which names the rank that left`, async () => {
    const flags = ["--ranks=3", `--rendezvous=ws://127.0.0.1:${freePort()}`, "--steps=1000000"];
    const hosts = ["0-1", "2"].map((rank) => startHost([...flags, `--rank=${rank}`]));
    await hosts[1].says("step 2/");
    Deno.kill(hosts[1].pid, signal);
    const [other, ended] = await Promise.all(hosts.map(({ result }) => result));
    assertEquals(ended.code, code);
    assertEquals(other.code, 1);
    assertMatch(other.stderr, /error: rank 2 failed: Rank 2 left during .* at step \d+: .* \(as rank [01] saw it\)/);
  });
}
