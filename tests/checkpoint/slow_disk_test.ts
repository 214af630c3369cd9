import { assertEquals } from "@std/assert";
import { createLoopbackGroups, readCheckpoint } from "@mst/core";
import { SafetensorsWriter } from "../../packages/core/train/safetensors_writer.ts";
import { withTempDir } from "../_support/temp_dir.ts";
import { trainRank, type Way, WAYS } from "./_training.ts";

/** A tensor takes a fraction of the timeout, all 60 of a checkpoint take a multiple of it. */
const WRITE_MS = 50;
const TIMEOUT_MS = 1000;

for (const name of ["ring", "megatron"] as const) {
  Deno.test(`ranks under ${name} wait for a disk that is slower than their patience`, () =>
    withTempDir(async (temp) => {
      const { write } = SafetensorsWriter.prototype;
      SafetensorsWriter.prototype.write = async function (...args): Promise<void> {
        await new Promise((resolve) => setTimeout(resolve, WRITE_MS));
        await write.apply(this, args);
      };
      try {
        const way: Way = WAYS[name];
        const groups = createLoopbackGroups(way.ranks, { timeoutMs: TIMEOUT_MS });
        await Promise.all(groups.map((group) => trainRank(way, group, { until: 1, save: `${temp}/c` })));
      } finally {
        SafetensorsWriter.prototype.write = write;
      }
      assertEquals((await readCheckpoint(`${temp}/c`)).state.step, 1);
    }));
}
