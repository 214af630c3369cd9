/**
 * Which models and strategies can be trained in which precision.
 *
 * @module
 */

import type { ModelConfig } from "../config/model_config.ts";
import type { TrainConfig } from "../config/train_config.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import { UnsupportedTopologyError } from "../strategy/unsupported.ts";
import { PRECISIONS } from "../tensor/precision.ts";
import { elementBytes } from "../tensor/shape.ts";

/** Dims that are the last one of a weight or an activation. */
const PAIRED_DIMS = ["dim", "ffn", "vocab"] as const;

/**
 * Refuses what a precision cannot do.
 *
 * @throws {RangeError} when elements of 16 bits of a dim would not lie in pairs
 * @throws {UnsupportedTopologyError} when the strategy does not take such activations
 */
export function checkPrecision(
  model: ModelConfig,
  { precision }: Pick<TrainConfig, "precision">,
  { name, activations: supported = ["f32"] }: Pick<SequenceStrategy, "name" | "activations">,
): void {
  const { weights, activations } = PRECISIONS[precision];
  const isPaired = [weights, activations].some((dtype) => elementBytes(dtype) === 2);
  const odd = PAIRED_DIMS.find((dim) => model[dim] % 2 !== 0);
  if (isPaired && odd) {
    throw new RangeError(
      `Cannot train in ${precision} with ${odd} ${model[odd]}: it must be even, as f16 lies in pairs`,
    );
  }
  if (isPaired && model.headDim % 4 !== 0) {
    throw new RangeError(
      `Cannot train in ${precision} with a head dim of ${model.headDim}: it must be a multiple of 4, as halves of it are ` +
        "turned in pairs",
    );
  }
  if (supported.includes(activations)) return;
  throw new UnsupportedTopologyError(
    `Cannot train in ${precision} under ${name}: its ranks exchange ${supported.join(" or ")}, wanted ${activations}`,
  );
}
