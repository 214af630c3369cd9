/**
 * Where all packages meet: the strategy behind each name on the command line.
 *
 * @module
 */

import {
  type Backend,
  checkHeadSplit,
  checkShard,
  checkTokenSplit,
  createSingleStrategy,
  type DType,
  type ModelConfig,
  type ProcessGroup,
  type SequenceStrategy,
  subgroup,
  type TrainConfig,
} from "@mst/core";
import { checkMegatronTopology, createMegatronStrategy } from "@mst/megatron";
import { createRingStrategy } from "@mst/ring";
import { createUlyssesStrategy } from "@mst/ulysses";

/** Which tokens a rank owns: two blocks that balance causal attention, or one. */
export type Placement = "zigzag" | "contiguous";

/** The two axes of a hybrid's ranks; rank r · U + u is number u of group r. */
export interface Mesh {
  /** Ranks U of a group, which trade heads. */
  readonly ulysses: number;
  /** Groups R, around which keys and values travel. */
  readonly ring: number;
}

/** How ranks are arranged. */
export interface Topology {
  /** GPU processes. */
  readonly ranks: number;
  /** Which tokens a rank owns, for strategies that leave the choice. */
  readonly placement: Placement;
  /** Axes of a hybrid's ranks; one ring of all when left out. */
  readonly mesh?: Mesh;
}

/** What a strategy is made of. */
export interface StrategyContext extends Omit<Topology, "ranks"> {
  /** Device of this rank. */
  readonly backend: Backend;
  /** The ranks. */
  readonly group: ProcessGroup;
}

/** What the bench has to know of a strategy before any process starts. */
interface StrategyEntry {
  /** Whether it runs on more than one rank. */
  readonly isParallel: boolean;
  /** Placements that it offers; none where there is nothing to choose. */
  readonly placements: readonly Placement[];
  /** Element types of activations that it takes; f32 alone when left out. */
  readonly activations?: readonly DType[];
  /** Whether its ranks hold parts of the weights, so that sharding has nothing left to divide. */
  readonly splitsWeights?: boolean;
  /** Throws an `UnsupportedTopologyError` when it cannot serve a run of that size, sharding and model. */
  readonly check: (topology: Topology, train: Pick<TrainConfig, "seqTokens" | "shard">, model: ModelConfig) => void;
  /** Arranges the ranks of a hybrid where the user does not; absent for strategies of one axis. */
  readonly mesh?: (ranks: number, model: ModelConfig) => Mesh;
  /** Makes it, on a rank. */
  readonly create: (context: StrategyContext) => SequenceStrategy;
}

/** Every strategy by its name; a further one is a line here. */
const STRATEGIES = {
  ring: {
    isParallel: true,
    placements: ["zigzag", "contiguous"],
    activations: ["f32", "f16"],
    check: checkTokens,
    create: createRingStrategy,
  },
  ulysses: {
    isParallel: true,
    placements: [],
    activations: ["f32", "f16"],
    check: ({ ranks }, { seqTokens }, model) => {
      checkTokenSplit(seqTokens, ranks);
      checkHeadSplit(model, ranks);
    },
    create: ({ backend, group }) => createUlyssesStrategy({ backend, group }),
  },
  megatron: {
    isParallel: true,
    placements: [],
    splitsWeights: true,
    check: ({ ranks }, { seqTokens, shard }, model) => {
      checkTokenSplit(seqTokens, ranks);
      checkMegatronTopology(model, ranks);
      if (ranks > 1) checkShard({ name: "megatron" }, shard);
    },
    create: ({ backend, group }) => createMegatronStrategy({ backend, group }),
  },
  usp: {
    isParallel: true,
    placements: ["zigzag", "contiguous"],
    activations: ["f32", "f16"],
    check: ({ ranks, mesh }, { seqTokens }, model) => {
      checkTokenSplit(seqTokens, ranks);
      checkHeadSplit(model, mesh?.ulysses ?? 1);
    },
    mesh: arrangeUsp,
    create: createUsp,
  },
  single: {
    isParallel: false,
    placements: [],
    activations: ["f32", "f16"],
    check: checkTokens,
    create: ({ backend }) => createSingleStrategy(backend),
  },
} as const satisfies Record<string, StrategyEntry>;

function checkTokens({ ranks }: Topology, { seqTokens }: Pick<TrainConfig, "seqTokens">): void {
  checkTokenSplit(seqTokens, ranks);
}

/** The largest groups that the heads allow beside a ring of two or more. */
function arrangeUsp(ranks: number, model: ModelConfig): Mesh {
  const fits = (ulysses: number) => {
    try {
      checkHeadSplit(model, ulysses);
      return true;
    } catch {
      return false;
    }
  };
  const divisors = Array.from({ length: ranks >> 1 }, (_, i) => i + 1).filter((count) => ranks % count === 0);
  const ulysses = divisors.findLast(fits) ?? 1;
  return { ulysses, ring: ranks / ulysses };
}

/** Ulysses inside groups, a ring across them (USP, Fang & Zhao 2024). */
function createUsp({ backend, group, placement, mesh }: StrategyContext): SequenceStrategy {
  const { ulysses, ring } = mesh ?? { ulysses: 1, ring: group.size };
  const across = Array.from({ length: ring }, (_, r) => r * ulysses + group.rank % ulysses);
  const inner = createRingStrategy({ backend, group: subgroup(group, across), placement });
  return createUlyssesStrategy({ backend, group, inner });
}

/** Name of a strategy on the command line. */
export type StrategyName = keyof typeof STRATEGIES;

/** Every strategy's name. */
export const STRATEGY_NAMES = Object.keys(STRATEGIES) as readonly StrategyName[];

/** The strategy of a name. */
export function strategyEntry(name: StrategyName): StrategyEntry {
  return STRATEGIES[name];
}
