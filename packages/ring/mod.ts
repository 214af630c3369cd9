/**
 * Ring Attention: blocks of keys and values travel around a ring of ranks (Liu, Zaharia & Abbeel 2023).
 *
 * @module
 */

export { createRingStrategy, ringAttentionMemory, type RingOptions } from "./ring_strategy.ts";
