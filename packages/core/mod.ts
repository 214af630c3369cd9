/**
 * Mini-sequence training: backends, layers, recomputation, the strategy seam and the transport between ranks.
 *
 * @module
 */
export {};
