/**
 * Ring Attention as a sequence strategy: key and value blocks travel around the ranks, partial outputs are merged.
 *
 * @module
 */
export {};
