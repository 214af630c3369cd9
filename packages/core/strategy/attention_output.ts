/**
 * Keeping only what attention's kernel computed, for attention cores that save q, k, v, out and log-sum-exp.
 *
 * @module
 */

import { type Saved, savedTensors } from "../tensor/scope.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** `AttentionCore.keep` of a core whose `saved.tensors` are q, k, v, out and log-sum-exp. */
export function keepAttentionOutput(saved: Saved): Saved {
  const [out, logSumExp] = saved.tensors.slice(3).map((tensor) => tensor.share());
  saved.free();
  [out, logSumExp].forEach(({ storage }) => storage.retag("checkpoints"));
  return savedTensors({ out, logSumExp });
}

/** q, k, v, out and log-sum-exp of the same core, from q, k, v and what was kept; takes over all. */
export function withAttentionOutput([q, k, v]: readonly Tensor[], kept: Saved): Saved {
  const [out, logSumExp] = kept.tensors;
  return savedTensors({ q, k, v, out, logSumExp });
}
