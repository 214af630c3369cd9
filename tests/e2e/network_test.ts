import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { type BenchReport, benchReport, SMALL } from "../_support/bench_report.ts";
import { HostNetwork, type PacketConditions, whyNoNetwork } from "../_support/namespaces.ts";
import { type RunningCommand, startCommand } from "../_support/processes.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const TIMEOUT_SECONDS = 3;
const REFERENCE = ["--device=reference", ...SMALL, `--timeout=${TIMEOUT_SECONDS}`];

/** Starts a command with one rank on each host. */
function startHosts(network: HostNetwork, ranks: number, flags: (rank: number) => string[]): RunningCommand[] {
  const meeting = [`--rendezvous=ws://${network.address(0)}:29500`, `--ranks=${ranks}`];
  return Array.from({ length: ranks }, (_, rank) => {
    const args = [...REFERENCE, ...meeting, `--rank=${rank}`, ...flags(rank)];
    const environment = { MST_TOKEN: "a token of sixteen characters or more" };
    return startCommand("main.ts", args, { environment, within: network.within(rank) });
  });
}

/** A test that says in its name why it is ignored, where the machine has no such network. */
function networkTest(name: string, problem: string | undefined, fn: () => Promise<void>): void {
  Deno.test({ name: problem ? `${name} (ignored: ${problem})` : name, ignore: problem !== undefined, fn });
}

/** Trains over a network, and alone; resolves to what the hosts measured of their link. */
async function trainOver(network: HostNetwork) {
  let links: BenchReport["runs"][number]["summary"]["links"];
  await withTempDir(async (folder) => {
    const hosts = startHosts(network, 2, (rank) => ["--profile", `--json=${folder}/${rank}.json`]);
    for (const { code, stderr } of await Promise.all(hosts.map(({ result }) => result))) assertEquals(code, 0, stderr);
    const [{ summary }] = (JSON.parse(await Deno.readTextFile(`${folder}/0.json`)) as BenchReport).runs;
    const alone = await benchReport([...REFERENCE, "--ranks=2"]);
    assertEquals(summary.losses, alone.report.runs[0].summary.losses);
    links = summary.links;
  });
  assertEquals(links!.length, 1);
  return links![0];
}

const CONDITIONS: readonly (readonly [PacketConditions, name: string])[] = [
  ["slow", "a slow link of 20 Mbit/s"],
  ["lossy", "a lossy link that drops every 50th packet"],
  ["far", "a far link of 20 ms each way"],
];

for (const [conditions, name] of CONDITIONS) {
  networkTest(`two hosts train over ${name} to the same losses`, await whyNoNetwork(conditions), async () => {
    await using network = await HostNetwork.create(2);
    await network.impair(conditions);
    const { roundTripMs, bytesPerSecond, bytesPerSecondBack } = await trainOver(network);
    if (conditions === "far") assert(roundTripMs > 30 && roundTripMs < 80, `${roundTripMs} ms`);
    if (conditions !== "slow") return;
    // 20 Mbit/s are 2.5 MB/s, and a burst passes at once.
    for (const rate of [bytesPerSecond, bytesPerSecondBack]) assert(rate > 1e6 && rate < 4e6, `${rate} bytes/s`);
  });
}

for (const host of [0, 2]) {
  networkTest(`a host of rank ${host} whose cable is pulled is named by all others`, await whyNoNetwork(), async () => {
    await using network = await HostNetwork.create(3);
    const hosts = startHosts(network, 3, () => ["--steps=1000000"]);
    await Promise.all(hosts.map((command) => command.says("step 2/")));
    const startMs = performance.now();
    await network.pullCable(host);
    const results = await Promise.all(hosts.map(({ result }) => result));
    assertLess(performance.now() - startMs, (2 * TIMEOUT_SECONDS + 5) * 1000);
    for (const [rank, { code, stderr }] of results.entries()) {
      assertEquals(code, 1, stderr);
      if (rank === host) continue;
      assertMatch(stderr, new RegExp(`error: rank ${host} failed: .*Rank ${host} stopped answering.* at step \\d+`));
    }
  });
}
