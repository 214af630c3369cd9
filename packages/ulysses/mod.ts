/**
 * DeepSpeed-Ulysses: ranks trade their part of the sequence for a part of the heads around attention (Jacobs et al. 2023).
 *
 * @module
 */

export { createUlyssesStrategy, ulyssesAttentionMemory, type UlyssesOptions } from "./ulysses_strategy.ts";
