import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { readCheckpoint, readModelWeights, SafetensorsFile } from "@mst/core";
import { assertClose } from "../_support/compare.ts";
import { withTempDir } from "../_support/temp_dir.ts";
import { MODEL, STEPS, train, type Way, WAYS } from "./_training.ts";

const SAVED_STEP = 3;
const ALL = Object.entries<Way>(WAYS);

/** Losses and norms of two ways to train: f32 sums in another order, which AdamW widens. */
function assertSameSteps(reports: number[][], expected: number[][], what: string): void {
  assertEquals(reports.map(([step, , , rate]) => [step, rate]), expected.map(([step, , , rate]) => [step, rate]), what);
  assertClose(reports.map(([, loss]) => loss), expected.map(([, loss]) => loss), { relative: 1e-5, what });
  assertClose(reports.map(([, , norm]) => norm), expected.map(([, , norm]) => norm), { relative: 1e-4, what });
}

for (const [index, [name, way]] of ALL.entries()) {
  const [otherName, other] = ALL[(index + 1) % ALL.length];

  Deno.test(`a checkpoint of ${name} goes on as if nothing had been, and under ${otherName}`, () =>
    withTempDir(async (temp) => {
      const folder = `${temp}/c`;
      const straight = await train(way);
      const first = await train(way, { until: SAVED_STEP, save: folder });
      assertEquals(first.reports, straight.reports.slice(0, SAVED_STEP));
      assertEquals(first.peaks, straight.peaks, "saving takes no device memory");
      const { model, state } = await readCheckpoint(folder);
      assertEquals([model, state.step], [MODEL, SAVED_STEP]);

      const resume = { folder, step: SAVED_STEP };
      const again = await train(way, { resume });
      assertEquals(again.reports, straight.reports.slice(SAVED_STEP), "the same to the bit");
      assertEquals(again.peaks, straight.peaks, "resuming takes no device memory");
      const { reports } = await train(other, { resume });
      assertSameSteps(reports, straight.reports.slice(SAVED_STEP), `${name}, then ${otherName}`);
      assertEquals(reports.length, STEPS - SAVED_STEP);
    }));
}

Deno.test("every way to train saves the same checkpoint, and one that the next replaces", () =>
  withTempDir(async (temp) => {
    const read = async (folder: string, file: string) => {
      using tensors = await SafetensorsFile.open(`${folder}/${file}.safetensors`);
      const values = new Map<string, Float32Array>();
      for (const name of tensors.entries.keys()) values.set(name, await tensors.readFloats(name));
      return values;
    };
    const expected = `${temp}/single`;
    await train(WAYS.single, { until: 2, save: expected });
    const folder = `${temp}/c`;
    for (const [name, way] of ALL) {
      await train(way, { until: 2, save: folder });
      for (const file of ["model", "optimizer"]) {
        const [saved, wanted] = [await read(folder, file), await read(expected, file)];
        assertEquals([...saved.keys()], [...wanted.keys()]);
        for (const [tensor, values] of saved) {
          const largest = wanted.get(tensor)!.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
          // Two steps of AdamW on gradients that were summed in another order; weights move by up to 1e-2 a step.
          const absolute = file === "model" ? 1e-4 : 1e-4 * largest;
          assertClose(values, wanted.get(tensor)!, { absolute, what: `${tensor} of ${name}`, rejectAllZero: true });
        }
      }
    }
    assertEquals((await Array.fromAsync(Deno.readDir(temp), ({ name }) => name)).sort(), ["c", "single"]);
  }));

Deno.test("without its moments a checkpoint does not go on as if nothing had been", () =>
  withTempDir(async (temp) => {
    const folder = `${temp}/c`;
    const straight = await train(WAYS.single);
    await train(WAYS.single, { until: SAVED_STEP, save: folder });
    const weights = await readModelWeights(folder, MODEL);
    const { reports } = await train(WAYS.single, { weights });
    assertNotEquals(reports[1], straight.reports[SAVED_STEP + 1]);
    assert(Math.abs(reports[0][1] - straight.reports[0][1]) > 1e-4, "weights were trained");
  }));
