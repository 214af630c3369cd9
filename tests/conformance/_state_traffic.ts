/**
 * What ranks send for the states of a model that they divide among themselves, in closed form.
 *
 * @module
 */

import {
  blockShapes,
  dividedStates,
  elementCount,
  type ModelConfig,
  pairedSegment,
  parameterSpecs,
  type SequenceStrategy,
  type Shape,
  type TrainConfig,
} from "@mst/core";

/** Payload bytes that a rank of at least two sends in a step for gradients, weights and the norm of gradients. */
export function stateTraffic(
  model: ModelConfig,
  { shard, accumulate }: Pick<TrainConfig, "shard" | "accumulate">,
  { rank, ranks }: SequenceStrategy,
): number {
  const segment = (size: number, r: number) => {
    const { start, end } = pairedSegment(size, ranks, r % ranks);
    return end - start;
  };
  const sum = (shapes: readonly Shape[], sent: (size: number) => number) =>
    shapes.reduce((total, shape) => total + 4 * sent(elementCount(shape)), 0);
  /** Partial sums of all segments but the own one. */
  const reduceScatter = (shapes: readonly Shape[]) => sum(shapes, (size) => size - segment(size, rank));
  /** All segments but that of the next rank. */
  const allGather = (shapes: readonly Shape[]) => sum(shapes, (size) => size - segment(size, rank + 1));

  /** The own segment to each of the others. */
  const sendToAll = (shapes: readonly Shape[]) => sum(shapes, (size) => (ranks - 1) * segment(size, rank));

  const all = parameterSpecs(model).map(({ shape }) => shape);
  const embedding: Shape[] = [[model.vocab, model.dim]];
  const blocks = Array.from({ length: model.layers }, () => Object.values(blockShapes(model))).flat();
  const head: Shape[] = [[model.dim], [model.vocab, model.dim]];
  const divided = dividedStates({ ranks }, shard);
  if (!divided.moments) return reduceScatter(all) + sendToAll(all);
  return [
    divided.gradients ? accumulate * reduceScatter([...embedding, ...blocks, ...head]) : reduceScatter(all),
    divided.weights ? accumulate * allGather([...embedding, ...blocks, ...head, ...blocks]) : allGather(all),
    8 * (ranks - 1), // the squared norm of the own gradients
  ].reduce((total, bytes) => total + bytes);
}
