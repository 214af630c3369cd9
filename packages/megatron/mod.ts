/**
 * Megatron-LM: ranks split the weights of every layer, and between layers the tokens (Shoeybi et al. 2019; Korthikanti et
 * al. 2022), gathering rows mini-sequence by mini-sequence.
 *
 * @module
 */

export { createMegatronStrategy, type MegatronOptions } from "./megatron_strategy.ts";
export { checkMegatronTopology, type SplitDims } from "./weight_placement.ts";
