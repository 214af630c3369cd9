/**
 * Where the search for the longest sequence under a memory budget starts, and how finely it looks.
 *
 * @module
 */

import { createLoopbackGroups, createReferenceBackend, estimateMemory } from "@mst/core";
import { strategyEntry } from "../scenario.ts";
import type { LengthSearch, RunConfig } from "./run_config.ts";

/** Lengths are told apart down to about this part of the first one. */
const RESOLUTION = 1 / 256;

/**
 * A search from the length at which the closed-form estimate meets the budget. It is a first guess and no more: what is
 * found is measured.
 *
 * @param run the run at any length, with a budget
 * @param maxTokens most tokens that the text has for a sequence
 */
export function planLongest(run: RunConfig, maxTokens: number): LengthSearch {
  const minTokens = Math.min(run.ranks, maxTokens);
  const budgetBytes = run.memoryBudgetBytes!;
  const peakBytes = peakEstimate(run);
  let fits = minTokens;
  let exceeds = minTokens;
  while (exceeds <= maxTokens && peakBytes(exceeds) <= budgetBytes) {
    fits = exceeds;
    exceeds *= 2;
  }
  exceeds = Math.min(exceeds, maxTokens + 1);
  while (exceeds - fits > 1) {
    const middle = Math.floor((fits + exceeds) / 2);
    if (peakBytes(middle) <= budgetBytes) fits = middle;
    else exceeds = middle;
  }
  const unitTokens = 2 ** Math.max(0, Math.floor(Math.log2(fits * RESOLUTION)));
  return { minTokens, maxTokens, unitTokens, startTokens: Math.max(minTokens, fits - fits % unitTokens) };
}

/** Predicted peak of the rank that needs most, by length. */
function peakEstimate({ strategy, ranks, placement, mesh, model, train }: RunConfig): (seqTokens: number) => number {
  const backend = createReferenceBackend();
  const strategies = createLoopbackGroups(ranks)
    .map((group) => strategyEntry(strategy).create({ backend, group, placement, mesh }));
  return (seqTokens) =>
    Math.max(...strategies.map((ranked) => estimateMemory(model, { ...train, seqTokens }, ranked).peakBytes));
}
