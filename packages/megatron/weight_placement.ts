/**
 * Which part of which weight a rank holds (Shoeybi et al. 2019, section 3). Legend: R ranks, H query heads, K kv heads, E
 * head dim, D model width, F MLP width, V vocabulary.
 *
 * Projections of q, k and v, gate and up are split by rows, whole heads at a time; those back to the width by columns;
 * the embedding and the LM head by tokens of the vocabulary. Norms are held whole. Which heads a rank has, those that it
 * shares with neighbours among them, is as `checkHeadSplit` and `headShare` have it.
 *
 * @module
 */

import {
  checkHeadSplit,
  headShare,
  type ModelConfig,
  type NamedShape,
  type Placement,
  segmentBounds,
  UnsupportedTopologyError,
} from "@mst/core";

/** The dims that decide whether a model can be split. */
export type SplitDims = Pick<ModelConfig, "heads" | "kvHeads" | "headDim" | "ffn" | "vocab">;

/**
 * Refuses a model whose weights cannot be split over ranks.
 *
 * @throws {UnsupportedTopologyError} when the query heads are no multiple of the ranks, when neither the kv heads are a
 * multiple of the ranks nor the ranks a multiple of the kv heads, or when the MLP or the vocabulary is narrower than ranks
 */
export function checkMegatronTopology({ ffn, vocab, ...heads }: Omit<SplitDims, "headDim">, ranks: number): void {
  checkHeadSplit(heads, ranks);
  for (const [what, width] of [["an MLP", ffn], ["a vocabulary", vocab]] as const) {
    if (width < ranks) {
      throw new UnsupportedTopologyError(
        `Cannot split ${what} of width ${width} across ${ranks} ranks: every rank needs at least one column`,
      );
    }
  }
}

/** How a projection of a name is split. */
const PROJECTIONS = {
  q_proj: { dim: 0, by: "heads" },
  k_proj: { dim: 0, by: "kvHeads" },
  v_proj: { dim: 0, by: "kvHeads" },
  o_proj: { dim: 1, by: "heads" },
  gate_proj: { dim: 0, by: "columns" },
  up_proj: { dim: 0, by: "columns" },
  down_proj: { dim: 1, by: "columns" },
  embed_tokens: { dim: 0, by: "columns" },
  lm_head: { dim: 0, by: "columns" },
} as const;

/**
 * The part of a weight that rank `rank` of `ranks` holds. Widths that do not divide by the ranks are split into parts that
 * differ by one.
 */
export function placementOf(weight: NamedShape, dims: SplitDims, rank: number, ranks: number): Placement {
  const all = Array.from({ length: ranks }, (_, r) => r);
  const split = PROJECTIONS[weight.name.split(".").at(-2) as keyof typeof PROJECTIONS];
  if (!split) return { sharers: all };
  const { dim, by } = split;
  if (by === "columns") return { part: { dim, ...segmentBounds(weight.shape[dim], ranks, rank) }, sharers: [rank] };
  const { own, copies } = headShare(dims[by], ranks);
  const share = (of: number) => Math.floor(of / copies);
  const start = share(rank) * own * dims.headDim;
  const sharers = all.filter((other) => share(other) === share(rank));
  return { part: { dim, start, end: start + own * dims.headDim }, sharers };
}
