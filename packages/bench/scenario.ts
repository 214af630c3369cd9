/**
 * Where all packages meet: the strategy behind each name on the command line.
 *
 * @module
 */

import {
  type Backend,
  contiguousPartition,
  createSingleStrategy,
  type ModelConfig,
  type ProcessGroup,
  type SequenceStrategy,
  zigZagPartition,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";
import { checkUlyssesTopology, createUlyssesStrategy } from "@mst/ulysses";

/** Which tokens a rank owns: two blocks that balance causal attention, or one. */
export type Placement = "zigzag" | "contiguous";

/** What a strategy is made of. */
export interface StrategyContext {
  /** Device of this rank. */
  readonly backend: Backend;
  /** The ranks. */
  readonly group: ProcessGroup;
  /** Which tokens a rank owns, for strategies that leave the choice. */
  readonly placement: Placement;
}

/** What the bench has to know of a strategy before any process starts. */
interface StrategyEntry {
  /** Whether it runs on more than one rank. */
  readonly isParallel: boolean;
  /** Placements that it offers; none where there is nothing to choose. */
  readonly placements: readonly Placement[];
  /** Throws an `UnsupportedTopologyError` when it cannot serve a run of that size and model. */
  readonly check: (seqTokens: number, ranks: number, placement: Placement, model: ModelConfig) => void;
  /** Makes it, on a rank. */
  readonly create: (context: StrategyContext) => SequenceStrategy;
}

const split = (seqTokens: number, ranks: number, placement: Placement) =>
  placement === "zigzag" ? zigZagPartition(seqTokens, ranks) : contiguousPartition(seqTokens, ranks);

/** Every strategy by its name; a further one is a line here. */
const STRATEGIES = {
  ring: { isParallel: true, placements: ["zigzag", "contiguous"], check: split, create: createRingStrategy },
  ulysses: {
    isParallel: true,
    placements: [],
    check: (seqTokens, ranks, _placement, model) => {
      contiguousPartition(seqTokens, ranks);
      checkUlyssesTopology(model, ranks);
    },
    create: createUlyssesStrategy,
  },
  single: { isParallel: false, placements: [], check: split, create: ({ backend }) => createSingleStrategy(backend) },
} as const satisfies Record<string, StrategyEntry>;

/** Name of a strategy on the command line. */
export type StrategyName = keyof typeof STRATEGIES;

/** Every strategy's name. */
export const STRATEGY_NAMES = Object.keys(STRATEGIES) as readonly StrategyName[];

/** The strategy of a name. */
export function strategyEntry(name: StrategyName): StrategyEntry {
  return STRATEGIES[name];
}
