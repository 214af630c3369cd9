/**
 * Comparing what two runs computed: loss, every gradient, and the losses of their steps.
 *
 * @module
 */

import { SafetensorsFile } from "@mst/core";
import { captureFile } from "../rank/capture.ts";
import { compare, type Comparison, TOLERANCES, type Tolerances } from "./tolerance.ts";

/** What a run left behind. */
export interface CapturedRun {
  /** Its capture folder. */
  readonly folder: string;
  /** Losses of its steps. */
  readonly losses: readonly number[];
}

/**
 * Compares a run with the expected one, tensor by tensor.
 *
 * @throws {SafetensorsError} when one has tensors that the other lacks
 */
export async function compareCaptures(
  actual: CapturedRun,
  expected: CapturedRun,
  tolerances: Tolerances = TOLERANCES.f32,
): Promise<Comparison[]> {
  using ours = await SafetensorsFile.open(captureFile(actual.folder, 0));
  using theirs = await SafetensorsFile.open(captureFile(expected.folder, 0));
  const comparisons: Comparison[] = [];
  for (const name of theirs.entries.keys()) {
    const tolerance = name === "loss" ? tolerances.loss : tolerances.gradients;
    comparisons.push(compare(name, await ours.readFloats(name), await theirs.readFloats(name), tolerance));
  }
  comparisons.push(compare("losses", actual.losses, expected.losses, tolerances.losses));
  return comparisons.sort((a, b) => Number(a.name !== "loss") - Number(b.name !== "loss"));
}
