import { assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { MODEL_PRESETS, parseTrainConfig } from "@mst/core";
import { readHostOptions } from "../../packages/bench/config/host_options.ts";
import { parseRendezvous } from "../../packages/bench/config/rendezvous_address.ts";
import type { RunConfig } from "../../packages/bench/config/run_config.ts";
import { runSettings } from "../../packages/bench/config/run_settings.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const FLAGS = { rendezvous: "ws://10.0.0.1:29500", ranks: 4, rank: [2, 3] } as const;
const TOKEN = "0123456789abcdef";

Deno.test("a host's part of a run is its ranks, the secret, and where to meet", async () => {
  assertEquals(await readHostOptions({}, TOKEN), undefined);
  const meeting = { rendezvous: FLAGS.rendezvous, bind: "10.0.0.2", tls: undefined };
  assertEquals(await readHostOptions({ ...FLAGS, bind: "10.0.0.2" }, ` ${TOKEN}\n`), {
    ranks: [2, 3],
    token: TOKEN,
    meeting,
  });
});

Deno.test("a secret comes from a file before the environment, and is refused if it can be guessed", () =>
  withTempDir(async (folder) => {
    await Deno.writeTextFile(`${folder}/token`, `${TOKEN.toUpperCase()}\n`);
    const flags = { ...FLAGS, "token-file": `${folder}/token` };
    assertEquals((await readHostOptions(flags, TOKEN))!.token, TOKEN.toUpperCase());
    await assertRejects(() => readHostOptions(FLAGS, "short"), Error, "Cannot use a token of 5 characters");
    await assertRejects(() => readHostOptions(FLAGS, " "), Error, "MST_TOKEN or --token-file must hold");
  }));

const ADDRESSES: Record<string, ReturnType<typeof parseRendezvous>> = {
  "ws://node-1.example:29500": { secure: false, host: "node-1.example", port: 29500 },
  "WSS://[fd00::1]:443/": { secure: true, host: "fd00::1", port: 443 },
  "ws://10.0.0.1:80": { secure: false, host: "10.0.0.1", port: 80 },
  "ws://10.0.0.1": undefined,
  "ws://10.0.0.1:0": undefined,
  "ws://10.0.0.1:70000": undefined,
  "ws://a b:1": undefined,
  "ws://a:1/path": undefined,
  "tcp://a:1": undefined,
  "": undefined,
};

for (const [text, parts] of Object.entries(ADDRESSES)) {
  Deno.test(`the address of a rendezvous "${text}" is ${parts ? "read" : "refused"}`, () => {
    assertEquals(parseRendezvous(text), parts);
  });
}

const RUN: RunConfig = {
  strategy: "ring",
  ranks: 2,
  placement: "zigzag",
  device: "reference",
  modelName: "tiny",
  model: MODEL_PRESETS.tiny,
  train: parseTrainConfig({ seqTokens: 16, steps: 2 }),
  warmup: 0,
  profile: false,
  timeoutSeconds: 20,
};
const TEXT = { name: "a text", tokens: Uint16Array.of(1, 2, 3), packed: false };

Deno.test("settings name every part of a run, and files by what they hold", () =>
  withTempDir(async (folder) => {
    const settings = await runSettings(RUN, TEXT);
    assertEquals([settings.strategy, settings["train.seqTokens"], settings.weights], ["ring", "16", "by seed"]);
    const moved = { ...RUN, modelName: "/elsewhere", dataFile: "/elsewhere" };
    assertEquals(await runSettings(moved, { ...TEXT, name: "another name" }), settings);
    const other = await runSettings(RUN, { ...TEXT, tokens: Uint16Array.of(1, 2, 4) });
    assertNotEquals(other["training text"], settings["training text"]);

    const weightsOf = async (size: number, at: number) => {
      const bytes = new Uint8Array(size);
      bytes[at] = 1;
      await Deno.writeFile(`${folder}/model.safetensors`, bytes);
      return (await runSettings({ ...RUN, weightsFolder: folder }, TEXT)).weights;
    };
    const weights = await weightsOf(1000, 999);
    assertEquals(await weightsOf(1000, 999), weights);
    for (const [size, at] of [[1000, 0], [1001, 999], [5_000_000, 0], [5_000_000, 4_930_000]]) {
      assertNotEquals(await weightsOf(size, at), weights);
    }
    assertNotEquals(await weightsOf(5_000_000, 4_930_000), await weightsOf(5_000_000, 0));
  }));
