import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  type Backend,
  createAdamW,
  createAdamWInBackward,
  createDeviceMoments,
  createHostCheckpoints,
  createHostMoments,
  createLoopbackGroups,
  createModelStates,
  createReferenceBackend,
  createSingleStrategy,
  estimateMemory,
  type Layer,
  type OffloadedBytes,
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
import { hostWords } from "../../packages/core/memory/host_words.ts";
import { assertClose } from "../_support/compare.ts";
import { gpuBackend, gpuTest } from "../_support/gpu.ts";
import { Random } from "../_support/random.ts";
import { randomBatch, tinyModel } from "../_support/tiny_model.ts";

const MODEL = tinyModel({ layers: 4 });
const SEQ_TOKENS = 18;
const STEPS = 2;

/** What a training computed, which does not depend on where things wait, and what it took. */
interface Trained {
  readonly numbers: number[][];
  readonly peakBytes: number;
  readonly offloadedBytes: OffloadedBytes;
  /** Elements that the rank updates, in words of both moments. */
  readonly updatedElements: number;
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
  const { optimizer } = backend.ledger.live();
  const { offloadedBytes } = trainer;
  const updatedElements = (optimizer + offloadedBytes.optimizer) / 8;
  return { numbers, peakBytes: backend.ledger.peak().totalBytes, offloadedBytes, updatedElements };
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
      for (const accumulate of ranks === 1 ? [1, 2] : [2]) {
        const settings = { shard, accumulate };
        const plain = await trainAll(create, ranks, settings);
        const offloaded = await trainAll(create, ranks, { ...settings, offload: ["checkpoints", "optimizer"] });
        for (const [rank, { numbers, peakBytes, offloadedBytes, updatedElements }] of offloaded.entries()) {
          assertEquals(numbers, plain[rank].numbers, `${shard}, rank ${rank}`);
          assert(peakBytes < plain[rank].peakBytes, `peak ${peakBytes} of ${plain[rank].peakBytes}`);
          assertEquals(updatedElements, plain[rank].updatedElements, `moments of ${shard}, rank ${rank}`);
          const checkpoints = (MODEL.layers - 1) * SEQ_TOKENS / ranks * MODEL.dim * 4;
          assertEquals(offloadedBytes, { checkpoints, optimizer: 8 * updatedElements }, `on the host: ${shard}`);
          assertEquals(plain[rank].offloadedBytes, { checkpoints: 0, optimizer: 0 });
        }
      }
    }
  });
}

Deno.test("inputs of the last layers stay on the device where asked to, and no bit changes", async () => {
  const create: Create = ({ backend }) => createSingleStrategy(backend);
  const [plain] = await trainAll(create, 1, {});
  for (const deviceCheckpoints of [1, 2, 4, 9]) {
    const [trained] = await trainAll(create, 1, { offload: ["checkpoints"], deviceCheckpoints });
    assertEquals(trained.numbers, plain.numbers);
    const onHost = Math.max(0, MODEL.layers - deviceCheckpoints);
    assertEquals(trained.offloadedBytes.checkpoints, onHost * SEQ_TOKENS * MODEL.dim * 4);
  }
});

Deno.test("moments on the host change no bit under any policy, and of updates in backward", async () => {
  const create: Create = ({ backend }) => createSingleStrategy(backend);
  const inBackward = { optimizerInBackward: true, clipNorm: 0 };
  const ways = [{ recompute: "none" }, { recompute: "selective" }, { recompute: "layer" }, inBackward];
  for (const settings of [...ways, { precision: "mixed" }, { precision: "mixed", ...inBackward }]) {
    const [plain] = await trainAll(create, 1, settings);
    const offload = "recompute" in settings ? ["optimizer"] : ["checkpoints", "optimizer"];
    const [offloaded] = await trainAll(create, 1, { ...settings, offload });
    assertEquals(offloaded.numbers, plain.numbers, JSON.stringify(settings));
    assertEquals(offloaded.offloadedBytes.optimizer, 8 * plain.updatedElements);
    assertEquals(offloaded.offloadedBytes.checkpoints > 0, offload.includes("checkpoints"));
  }
});

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
  for (const recompute of ["none", "selective", "except-attention"]) {
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
  const offload = ["checkpoints", "optimizer"];
  const offloaded = await trainRank(backend, strategy, parseTrainConfig({ ...settings, offload }));
  assertEquals(offloaded.numbers, plain.numbers);
});

Deno.test("memory that the host does not have is refused in words", () => {
  assertThrows(
    () => hostWords(2 ** 52, "checkpoints"),
    RangeError,
    "bytes of checkpoints on the host: allocation failed",
  );
});

gpuTest("no number depends on how many rows a binding holds", async (backend) => {
  const strategy = (backend: Backend) => createSingleStrategy(backend);
  const narrow = await gpuBackend({ maxBindingBytes: 2048 });
  for (const settings of [{}, { precision: "mixed" }]) {
    const train = parseTrainConfig({
      ...{ seqTokens: SEQ_TOKENS, mlpChunks: 3, headChunks: 2, batch: 5, offload: ["checkpoints", "optimizer"] },
      ...settings,
    });
    const expected = await trainRank(backend, strategy(backend), train);
    const actual = await trainRank(narrow, strategy(narrow), train);
    assertEquals(narrow.ledger.liveBytes(), 0);
    // Sums over rows are split elsewhere, which f16 gradients of activations show more of than f32 ones.
    const relative = "precision" in settings ? 2e-2 : 1e-4;
    for (const [i, values] of actual.numbers.entries()) {
      const largest = Math.max(...expected.numbers[i].map(Math.abs));
      assertClose(values, expected.numbers[i], { absolute: relative * largest, what: `numbers ${i}` });
    }
  }
});

/** Weights and moments after some updates, with moments on the host in pieces of so many elements, or on the device. */
async function updated(backend: Backend, { pieceElements, bf16 = false, inBackward = false }: {
  pieceElements?: number;
  bf16?: boolean;
  inBackward?: boolean;
}): Promise<number[][]> {
  const strategy = createSingleStrategy(backend);
  const states = createModelStates(backend, strategy, { shard: "none", optimizerInBackward: inBackward });
  const random = new Random(5);
  const parameters = [[7, 2], [4], [40]].map((shape, i) =>
    states.create(`p${i}`, shape, {
      dtype: bf16 ? "f16" : "f32",
      initialize: (target) => backend.write(target, random.normals(target.size)),
    })
  );
  const optimizer = (inBackward ? createAdamWInBackward : createAdamW)(backend, states, {
    moments: bf16 ? "bf16" : "f32",
    seed: 3,
    createMoments: pieceElements === undefined
      ? createDeviceMoments
      : (backend, own, dtype) => createHostMoments(backend, own, dtype, { pieceElements }),
  });
  for (let step = 1; step <= 3; step++) {
    const options = { learningRate: 0.1, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, step };
    optimizer.begin(options);
    await states.group(parameters).withGradients(() => {
      for (const { gradient } of parameters) backend.write(gradient!, random.normals(gradient!.size));
      return Promise.resolve();
    });
    using _clip = await optimizer.step(options, 0);
  }
  const numbers = (await backend.readAll(parameters.map(({ value }) => value))).map((values) => [...values]);
  for (const own of optimizer.updated) {
    for (const kind of ["m", "v"] as const) {
      const values = new Float32Array(own.value.size);
      await optimizer.moments.read(own, kind, values);
      optimizer.moments.write(own, kind, values); // what was read can be put back
      const again = new Float32Array(own.value.size);
      await optimizer.moments.read(own, kind, again);
      assertEquals(again, values);
      numbers.push([...values]);
    }
  }
  assertEquals(backend.ledger.live().optimizer === 0, pieceElements !== undefined);
  if (pieceElements !== undefined) {
    assertEquals(backend.ledger.highest().optimizer, Math.min(40, pieceElements) * 2 * (bf16 ? 2 : 4));
  }
  optimizer.free();
  states.free();
  return numbers;
}

gpuTest("moments on the host are updated piece by piece as on the device, whatever they are made of", async (gpu) => {
  for (const backend of [createReferenceBackend({ poison: true }), gpu]) {
    for (const how of [{}, { bf16: true }, { inBackward: true }]) {
      backend.ledger.resetPeak();
      const expected = await updated(backend, how);
      for (const pieceElements of [6, 1024]) {
        backend.ledger.resetPeak();
        assertEquals(await updated(backend, { ...how, pieceElements }), expected, JSON.stringify(how));
      }
      assert(expected.every((values) => values.some((value) => value !== 0)), "nothing stayed zero");
    }
  }
});
