import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  type Backend,
  createHostCheckpoints,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  estimateMemory,
  type Layer,
  parseTrainConfig,
  type ProcessGroup,
  savedTensors,
  type SequenceStrategy,
  type Tensor,
  tensorFrom,
  type TrainConfig,
  Trainer,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";
import { gpuTest } from "../_support/gpu.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

const MODEL = tinyModel({ layers: 4 });
const SEQ_TOKENS = 18;
const STEPS = 2;

/** What a training computed and left, which does not depend on where things wait. */
interface Trained {
  readonly numbers: number[][];
  readonly peakBytes: number;
  readonly offloadedBytes: number;
}

type Create = (context: { backend: Backend; group: ProcessGroup }) => SequenceStrategy;

/** Losses and norms of the steps, and then all gradients of another batch. */
async function trainRank(backend: Backend, strategy: SequenceStrategy, train: TrainConfig): Promise<Trained> {
  using trainer = new Trainer({ backend, strategy, model: MODEL, train });
  const batches = (step: number) =>
    Array.from(
      { length: train.accumulate },
      (_, i) => randomBatch(MODEL, SEQ_TOKENS, { seed: 10 * step + i, ignored: 0.2, batch: train.batch }),
    );
  const numbers: number[][] = [];
  backend.ledger.resetPeak();
  for (let step = 1; step <= STEPS; step++) {
    const { loss, gradNorm } = await trainer.step(batches(step));
    numbers.push([loss, gradNorm]);
  }
  assertEquals(backend.ledger.peak().totalBytes, estimateMemory(MODEL, train, strategy).peakBytes);
  const { gradients } = await trainer.gradients(batches(0));
  for (const gradient of gradients.values()) numbers.push([...gradient]);
  assert(numbers.flat().every(Number.isFinite), "values are finite");
  const offloadedBytes = Object.values(trainer.offloadedBytes).reduce((sum, bytes) => sum + bytes, 0);
  return { numbers, peakBytes: backend.ledger.peak().totalBytes, offloadedBytes };
}

async function trainAll(create: Create, ranks: number, settings: Record<string, unknown>): Promise<Trained[]> {
  const train = parseTrainConfig({ seqTokens: SEQ_TOKENS, mlpChunks: 3, headChunks: 2, ...settings });
  return await Promise.all(
    createLoopbackGroups(ranks).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const trained = await trainRank(backend, create({ backend, group }), train);
      assertEquals(backend.ledger.liveBytes(), 0);
      await group.close();
      return trained;
    }),
  );
}

const STRATEGIES: readonly { name: string; create: Create; ranks: number; shards: readonly string[] }[] = [
  { name: "single", create: ({ backend }) => createSingleStrategy(backend), ranks: 1, shards: ["none"] },
  { name: "ring", create: createRingStrategy, ranks: 2, shards: ["none", "optimizer", "gradients", "weights"] },
  { name: "ulysses", create: createUlyssesStrategy, ranks: 2, shards: ["weights"] },
  { name: "megatron", create: createMegatronStrategy, ranks: 2, shards: ["none"] },
];

for (const { name, create, ranks, shards } of STRATEGIES) {
  Deno.test(`offload changes no bit of what is computed: ${name}`, async () => {
    for (const shard of shards) {
      for (const accumulate of [1, 2]) {
        const settings = { shard, accumulate };
        const plain = await trainAll(create, ranks, settings);
        const offloaded = await trainAll(create, ranks, { ...settings, offload: ["checkpoints"] });
        for (const [rank, { numbers, peakBytes, offloadedBytes }] of offloaded.entries()) {
          assertEquals(numbers, plain[rank].numbers, `${shard}, rank ${rank}`);
          assert(peakBytes < plain[rank].peakBytes, `peak ${peakBytes} of ${plain[rank].peakBytes}`);
          const rows = SEQ_TOKENS / ranks;
          assertEquals(offloadedBytes, (MODEL.layers - 1) * rows * MODEL.dim * 4, `on the host: ${shard}`);
        }
      }
    }
  });
}

Deno.test("with checkpoints on the host, device memory does not grow with layers", () => {
  const activations = (layers: number) => {
    const model = tinyModel({ layers });
    const strategy = createSingleStrategy(createReferenceBackend());
    const train = parseTrainConfig({ seqTokens: 512, offload: ["checkpoints"] });
    const { peakBytes, residentBytes } = estimateMemory(model, train, strategy);
    return peakBytes - residentBytes;
  };
  assertEquals(activations(40), activations(2));
});

Deno.test("checkpoints are offloaded only where nothing else of a layer is kept", () => {
  for (const recompute of ["none", "selective"]) {
    assertThrows(
      () => parseTrainConfig({ offload: ["checkpoints"], recompute }),
      RangeError,
      `Cannot offload checkpoints with recompute ${recompute}: it must be layer`,
    );
  }
});

/** y = x + x, noting in `log` when it runs; its backward wants the input that forward had. */
function doubling(backend: Backend, log: string[], index: number): Layer {
  function copy(x: Tensor): Tensor {
    const y = backend.empty(x.shape, "activations", x.dtype);
    backend.ops.copy(x, y);
    return y;
  }
  return {
    backend,
    forward(x) {
      log.push(`forward ${index}`);
      const y = copy(x);
      backend.ops.add(x, y);
      return Promise.resolve({ y, saved: savedTensors({ x: x.share() }) });
    },
    async backward(dy, saved) {
      log.push(`backward ${index} of ${(await backend.read(saved.tensors[0])).join()}`);
      saved.free();
      return dy;
    },
  };
}

Deno.test("halves come back as they were, host memory is used again, and the device holds no more than two inputs", async () => {
  const log: string[] = [];
  await using backend = createReferenceBackend({ poison: true });
  const checkpoints = createHostCheckpoints(backend, 3);
  for (const [first, second] of [[1, -0.5], [0.25, 3]]) {
    backend.ledger.resetPeak();
    const wrap = checkpoints.begin();
    const layers = [0, 1, 2].map((index) => wrap(doubling(backend, log, index), index));
    let x = tensorFrom(backend, new Float32Array([first, second]), [2], "activations", "f16");
    const saved = [];
    for (const layer of layers) {
      const forward = await layer.forward(x);
      saved.push(forward.saved);
      x.free();
      x = forward.y;
    }
    assertEquals(checkpoints.bytes, 2 * 4);
    for (const layer of layers.toReversed()) x = await layer.backward(x, saved.pop()!);
    assertEquals(
      log.splice(0).filter((line) => line.startsWith("backward")),
      [2, 1, 0].map((index) => `backward ${index} of ${first * 2 ** index},${second * 2 ** index}`),
    );
    x.free();
    assertEquals([backend.ledger.liveBytes(), backend.ledger.highest().checkpoints], [0, 4]);
  }
});

gpuTest("checkpoints on the host change no bit on WebGPU, and the ledger equals the estimate", async (backend) => {
  const strategy = createSingleStrategy(backend);
  const settings = { seqTokens: SEQ_TOKENS, mlpChunks: 3, headChunks: 2, accumulate: 2 };
  const plain = await trainRank(backend, strategy, parseTrainConfig(settings));
  const offloaded = await trainRank(backend, strategy, parseTrainConfig({ ...settings, offload: ["checkpoints"] }));
  assertEquals(offloaded.numbers, plain.numbers);
});
