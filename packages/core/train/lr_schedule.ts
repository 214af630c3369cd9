/**
 * Learning rate by step.
 *
 * @module
 */

import type { TrainConfig } from "../config/train_config.ts";

/**
 * Learning rate of a step (from 1): linear warm-up over `warmupSteps`, then constant, or half a cosine down to
 * `minLearningRate` at the last step (Loshchilov & Hutter 2017).
 */
export function learningRateAt(step: number, train: TrainConfig): number {
  const { learningRate, minLearningRate, warmupSteps, steps, schedule } = train;
  if (step <= warmupSteps) return learningRate * step / warmupSteps;
  if (schedule === "constant") return learningRate;
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, steps - warmupSteps));
  return minLearningRate + (learningRate - minLearningRate) * 0.5 * (1 + Math.cos(Math.PI * progress));
}
