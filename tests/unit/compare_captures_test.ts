import { assert, assertEquals, assertRejects } from "@std/assert";
import { type HostTensor, SafetensorsError, writeSafetensors } from "@mst/core";
import { compareCaptures } from "../../packages/bench/verify/compare_captures.ts";
import { withTempDir } from "../_support/temp_dir.ts";

const LOSSES = [5, 4, 3];

/** What one rank writes, with a change. */
async function capture(folder: string, change: (tensors: Map<string, HostTensor>) => void = () => {}): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const tensors = new Map<string, HostTensor>([
    ["grad.a", { shape: [2], data: Float32Array.of(1, -0.001) }],
    ["grad.b", { shape: [1], data: Float32Array.of(3) }],
    ["loss", { shape: [1], data: Float32Array.of(5) }],
  ]);
  change(tensors);
  await writeSafetensors(`${folder}/rank-0.safetensors`, tensors);
}

Deno.test("equal runs pass, and the loss comes first", () =>
  withTempDir(async (folder) => {
    await capture(`${folder}/a`);
    await capture(`${folder}/b`);
    const comparisons = await compareCaptures({ folder: `${folder}/a`, losses: LOSSES }, {
      folder: `${folder}/b`,
      losses: LOSSES,
    });
    assertEquals(comparisons.map(({ name }) => name), ["loss", "grad.a", "grad.b", "losses"]);
    assert(comparisons.every(({ passed }) => passed));
  }));

Deno.test("a difference of any kind is found where it is", () =>
  withTempDir(async (folder) => {
    await capture(`${folder}/expected`);
    const set = (name: string, data: Float32Array) => (tensors: Map<string, HostTensor>) => {
      tensors.set(name, { shape: [data.length], data });
    };
    const cases = [
      { change: set("grad.a", Float32Array.of(1, -0.0011)), losses: LOSSES, failed: "grad.a" },
      { change: set("grad.a", Float32Array.of(0, 0)), losses: LOSSES, failed: "grad.a" },
      { change: set("grad.b", Float32Array.of(NaN)), losses: LOSSES, failed: "grad.b" },
      { change: set("loss", Float32Array.of(5.001)), losses: LOSSES, failed: "loss" },
      { change: () => {}, losses: [5, 4, 3.001], failed: "losses" },
    ];
    for (const { change, losses, failed } of cases) {
      await capture(`${folder}/actual`, change);
      const comparisons = await compareCaptures({ folder: `${folder}/actual`, losses }, {
        folder: `${folder}/expected`,
        losses: LOSSES,
      });
      assertEquals(comparisons.filter(({ passed }) => !passed).map(({ name }) => name), [failed]);
    }
  }));

Deno.test("a gradient that is missing is an error", () =>
  withTempDir(async (folder) => {
    await capture(`${folder}/expected`);
    await capture(`${folder}/actual`, (tensors) => tensors.delete("grad.b"));
    const [actual, expected] = ["actual", "expected"].map((name) => ({ folder: `${folder}/${name}`, losses: LOSSES }));
    await assertRejects(() => compareCaptures(actual, expected), SafetensorsError, 'no tensor "grad.b"');
  }));
