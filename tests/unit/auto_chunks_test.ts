import { assertEquals } from "@std/assert";
import {
  autoChunks,
  chunkCounts,
  createLoopbackGroups,
  createReferenceBackend,
  createSingleStrategy,
  MODEL_PRESETS,
  type ModelConfig,
  paperChunks,
  parseTrainConfig,
} from "@mst/core";
import { createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { tinyModel } from "../_support/tiny_model.ts";

/** Mini-sequences of MLP and head on one rank. */
function counts(model: ModelConfig, rows: number): [number, number] {
  const { mlpChunks, headChunks } = autoChunks(model, { ...model, rows, ranks: 1 });
  return [mlpChunks, headChunks];
}

function paperCounts(model: ModelConfig, rows: number): [number, number] {
  const { mlpChunks, headChunks } = paperChunks(model, rows);
  return [mlpChunks, headChunks];
}

Deno.test("the paper cuts rows into slices of d rows, and logits into as many as the vocabulary has d columns", () => {
  const llama3 = MODEL_PRESETS["8b"];
  assertEquals(paperCounts(llama3, 4096), [1, 32]);
  assertEquals(paperCounts(llama3, 4097), [2, 32]);
  assertEquals(paperCounts(llama3, 6), [1, 32]);
  assertEquals(paperCounts({ ...llama3, dim: 3584, vocab: 256000 }, 8192), [3, 72]); // Gemma 2
});

Deno.test("mini-sequences take what attention's backward holds more, and an input of a layer for eight layers", () => {
  // Free for a row: MLP (32 + 2·8)·64 + (2 − 1)·2048 = 5120, head (3·32 + 4·8)·64 + 2048 = 10240. A row of a slice holds
  // 3·8192 = 24576 and 128256 + 2048 = 130304, so 16,384 rows leave 3413 and 1287.
  const { "1b": large, tiny } = MODEL_PRESETS;
  assertEquals(counts(large, 16384), [5, 13]);
  assertEquals(counts(large, 16383), [5, 13]);
  assertEquals(counts(large, 16385), [5, 13]);
  assertEquals(counts(large, 32768)[0], 5);
  // With 15 layers 3072 and 8192: 16,000 rows leave 2000 and 1005.
  assertEquals(counts({ ...large, layers: 15 }, 16000), [8, 16]);
  // Below eight layers the input of MLP or head is what it costs: (4 + 2·2)·32 − 128 = 128 of 1056, 1000 rows leave 121.
  assertEquals(counts(tiny, 1000), [8, 3]);
  assertEquals(counts(tiny, 2000), [9, 3]); // 242
});

Deno.test("mini-sequences are no longer than makes them faster", () => {
  assertEquals(counts(MODEL_PRESETS["1b"], 65536), [8, 32]);
  assertEquals(counts(MODEL_PRESETS["1b"], 65537), [9, 33]);
  assertEquals(counts(MODEL_PRESETS["1b"], 131072), [16, 63]); // the head's are the paper's
  assertEquals(counts(MODEL_PRESETS["125m"], 65536), [8, 32]);
  assertEquals(counts(MODEL_PRESETS["8b"], 61440), [8, 30]);
});

Deno.test("mini-sequences are never more than the paper's, and four where the paper has as many", () => {
  for (const model of [...Object.values(MODEL_PRESETS), tinyModel(), tinyModel({ headDim: 2, ffn: 1000 })]) {
    for (const rows of [1, 2, 3, 7, 64, 257, 1000, 4096, 10007, 65536, 1048577]) {
      for (const [i, count] of counts(model, rows).entries()) {
        const most = paperCounts(model, rows)[i];
        assertEquals(count <= most && count >= Math.min(most, 4), true, `${count} of ${most} at ${rows}`);
      }
    }
  }
  assertEquals(counts(MODEL_PRESETS["8b"], 16384), [4, 8]); // the MLP's are the paper's
  // Attention holds less than the input of the MLP: (2 + 2·1)·2 < 16.
  assertEquals(counts(tinyModel({ heads: 2, kvHeads: 1, headDim: 2 }), 160)[0], 10);
});

Deno.test("where rows are gathered, mini-sequences go by those of all ranks and a rank's part of the weights", () => {
  // MLP (8 + 2·2)·64 + 2048/4 = 1280 of 3·8192/4 + 2048 = 8192; head (3·8 + 4·2)·64 + 512 = 2560 of
  // (128256 + 2048)/4 + 2048 = 34624: 16,384 rows leave 2560 and 1211.
  const { mlpChunks, headChunks } = autoChunks(MODEL_PRESETS["1b"], { rows: 16384, ranks: 4, heads: 8, kvHeads: 2 });
  assertEquals([mlpChunks, headChunks], [7, 14]);
});

Deno.test("a run takes given numbers, `auto` for its rows, and as many on ranks with other rows", async () => {
  await using backend = createReferenceBackend();
  const model = tinyModel();
  const single = createSingleStrategy(backend);
  const auto = chunkCounts(model, parseTrainConfig({ seqTokens: 50, batch: 3 }), single);
  assertEquals(auto, { ...autoChunks(model, { ...model, rows: 150, ranks: 1 }), rows: [150] });
  const given = chunkCounts(model, parseTrainConfig({ seqTokens: 50, mlpChunks: 7, headChunks: 1000 }), single);
  assertEquals([given.mlpChunks, given.headChunks], [7, 50]);

  const train = parseTrainConfig({ seqTokens: 41 });
  const groups = createLoopbackGroups(2);
  const rings = groups.map((group) => chunkCounts(model, train, createRingStrategy({ backend, group })));
  assertEquals(rings.map(({ rows }) => rows), [[21], [20]]); // a rank's own
  const megatrons = groups.map((group) =>
    chunkCounts(model, train, createMegatronStrategy({ backend, group, windowTokens: 10 }))
  );
  const all = { ...autoChunks(model, { rows: 41, ranks: 2, heads: 2, kvHeads: 1 }), rows: [21, 20] };
  assertEquals(megatrons, [all, all]);
  await Promise.all(groups.map((group) => group.close()));
});
