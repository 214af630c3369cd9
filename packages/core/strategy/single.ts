/**
 * No parallelism: the whole sequence on one rank. The control of every comparison.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { createLocalAttention, localAttentionMemory } from "./local_attention.ts";
import { contiguousPartition } from "./partition.ts";
import { SharedMemory } from "../transport/shared_memory.ts";
import type { SequenceStrategy } from "./strategy.ts";

/** The strategy of one rank. */
export function createSingleStrategy(backend: Backend): SequenceStrategy {
  return {
    name: "single",
    rank: 0,
    ranks: 1,
    memory: new SharedMemory(),
    partition: (seqTokens) => contiguousPartition(seqTokens, 1),
    attention: (shape, partition, documentStarts) => createLocalAttention(backend, shape, partition, documentStarts),
    activations: ["f32", "f16"],
    attentionMemory: localAttentionMemory,
    reduceGradients: () => Promise.resolve(),
    beginReduction: () => ({ finish: () => Promise.resolve(), free: () => {} }),
    reduceScatterGradients: () => Promise.resolve(),
    gatherWeights: () => Promise.resolve(),
    reduceScatter: async (parts) => void await parts,
    allGather: (values) => Promise.resolve([values.slice()]),
    gatherToFirst: (values) => Promise.resolve([values]),
    sumOverRanks: (values) => Promise.resolve([...values]),
    beginStep: () => {},
    takeExchange: () => ({ communicationMs: 0, bytesSent: 0 }),
  };
}
