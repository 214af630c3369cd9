/**
 * Named model shapes.
 *
 * @module
 */

import { type ModelConfig, parseModelConfig } from "./model_config.ts";

const llama = { normEpsilon: 1e-5, ropeTheta: 500000, tiedEmbeddings: false };

/** Model shapes by name: `tiny` for software drivers, the others as in the comparison with PyTorch. */
export const MODEL_PRESETS: Readonly<Record<string, ModelConfig>> = {
  tiny: parseModelConfig({
    ...llama,
    dim: 128,
    layers: 4,
    heads: 4,
    kvHeads: 2,
    headDim: 32,
    ffn: 352,
    vocab: 257,
  }),
  "125m": parseModelConfig({
    ...llama,
    dim: 768,
    layers: 12,
    heads: 12,
    kvHeads: 12,
    headDim: 64,
    ffn: 2048,
    vocab: 32000,
  }),
  "1b": parseModelConfig({
    ...llama,
    dim: 2048,
    layers: 16,
    heads: 32,
    kvHeads: 8,
    headDim: 64,
    ffn: 8192,
    vocab: 128256,
  }),
  "8b": parseModelConfig({
    ...llama,
    dim: 4096,
    layers: 32,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    ffn: 14336,
    vocab: 128256,
  }),
};
