/**
 * Comparing what ranks computed of a golden sequence with what transformers did.
 *
 * @module
 */

import { SafetensorsFile } from "@mst/core";
import { captureFile } from "../rank/capture.ts";
import type { GoldenCase } from "./golden_case.ts";
import { compare, type Comparison, type Tolerances } from "./tolerance.ts";

/** What the ranks of a run left behind. */
export interface GoldenCapture {
  /** Their capture folder. */
  readonly folder: string;
  /** Number of ranks. */
  readonly ranks: number;
  /** Losses of the steps. */
  readonly losses: readonly number[];
}

/** Compares loss, logits, every gradient and the losses of the steps. */
export async function compareWithGolden(
  golden: GoldenCase,
  capture: GoldenCapture,
  tolerances: Tolerances,
): Promise<Comparison[]> {
  const logits = await gatherLogits(golden, capture);
  using file = await SafetensorsFile.open(captureFile(capture.folder, 0));
  const comparisons = [
    compare("loss", await file.readFloats("loss"), [golden.loss], tolerances.loss),
    compare("logits", logits, golden.logits, tolerances.logits),
  ];
  for (const [name, expected] of golden.gradients) {
    comparisons.push(compare(`grad.${name}`, await file.readFloats(`grad.${name}`), expected, tolerances.gradients));
  }
  comparisons.push(compare("losses", capture.losses, golden.losses, tolerances.losses));
  return comparisons;
}

/** Puts the rows of all ranks in the order of their positions [S, V]; a row that no rank has stays NaN. */
async function gatherLogits(
  { model, inputIds }: GoldenCase,
  { folder, ranks }: GoldenCapture,
): Promise<Float32Array> {
  const { vocab } = model;
  const logits = new Float32Array(inputIds.length * vocab).fill(NaN);
  for (let rank = 0; rank < ranks; rank++) {
    using file = await SafetensorsFile.open(captureFile(folder, rank));
    const rows = await file.readFloats("logits");
    const positions = await file.readIntegers("positions");
    positions.forEach((position, i) => logits.set(rows.subarray(i * vocab, (i + 1) * vocab), position * vocab));
  }
  return logits;
}
