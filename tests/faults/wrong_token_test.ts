import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { launch, type RunConfig } from "@mst/bench";
import { connectProcessGroup, MODEL_PRESETS, parseTrainConfig, PeerError } from "@mst/core";

const RUN: RunConfig = {
  strategy: "ring",
  ranks: 2,
  placement: "zigzag",
  device: "reference",
  modelName: "tiny",
  model: { ...MODEL_PRESETS.tiny, layers: 1 },
  train: parseTrainConfig({ seqTokens: 16, steps: 2 }),
  warmup: 0,
  profile: false,
  timeoutSeconds: 20,
};

Deno.test("who does not know the token of a run is sent away, and the run goes on", async () => {
  let refusals: Promise<unknown>[] = [];
  const knock = (url: string, token: string) =>
    assertRejects(
      () => connectProcessGroup({ rank: 1, size: 2, token, rendezvous: url, timeoutMs: 10_000 }),
      PeerError,
    );
  const ranks = await launch({
    job: { run: RUN },
    gpus: [],
    onEvent: (_, event) => {
      if (event.type === "listening") {
        refusals = ["guess", " ", crypto.randomUUID()].map((each) => knock(event.url, each));
      }
    },
  });
  const errors = await Promise.all(refusals);
  assertEquals(errors.length, 3);
  for (const error of errors) {
    assertInstanceOf(error, PeerError);
    assertEquals(["unauthorized", "closed"].includes(error.kind), true, error.message);
  }
  assertEquals(ranks.map(({ steps }) => steps.length), [2, 2]);
});
