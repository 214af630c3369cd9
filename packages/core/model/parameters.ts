/**
 * The weights of a decoder: names, shapes, allocation and initial values.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { ModelConfig } from "../config/model_config.ts";
import type { Parameter, ParameterGroup } from "../layer/parameter.ts";
import { createWholeStates, type ModelStates } from "../sharding/model_states.ts";
import { type PartRuns, takePart } from "../sharding/weight_part.ts";
import { type Precision, PRECISIONS } from "../tensor/precision.ts";
import { type DType, elementCount, type Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Standard deviation of initial projections and embeddings (transformers' default initializer_range). */
export const INITIAL_STD = 0.02;

/** Name and shape of a weight. */
export interface ParameterSpec {
  /** Name in transformers' state dict. */
  readonly name: string;
  /** Dims. */
  readonly shape: Shape;
}

/** Weights of one decoder block. */
export interface BlockParameters {
  /** RMSNorm before attention [D]. */
  readonly attentionNorm: Parameter;
  /** Query projection [H·E, D]. */
  readonly query: Parameter;
  /** Key projection [K·E, D]. */
  readonly key: Parameter;
  /** Value projection [K·E, D]. */
  readonly value: Parameter;
  /** Output projection [D, H·E]. */
  readonly output: Parameter;
  /** RMSNorm before the MLP [D]. */
  readonly mlpNorm: Parameter;
  /** Gate projection [F, D]. */
  readonly gate: Parameter;
  /** Up projection [F, D]. */
  readonly up: Parameter;
  /** Down projection [D, F]. */
  readonly down: Parameter;
}

/** Weights of a decoder. */
export interface DecoderParameters {
  /** Token embedding [V, D]. */
  readonly embedding: Parameter;
  /** Blocks, first to last. */
  readonly blocks: readonly BlockParameters[];
  /** Final RMSNorm [D]. */
  readonly finalNorm: Parameter;
  /** LM head [V, D]; the embedding itself when tied. */
  readonly head: Parameter;
  /** Every distinct parameter once, in a fixed order. */
  readonly all: readonly Parameter[];
  /** Which of them are used together; those of tied embeddings are in two groups. */
  readonly groups: ParameterGroups;
  /** Frees weights and gradients. */
  free(): void;
}

/** The groups of a decoder's parameters. */
export interface ParameterGroups {
  /** The token embedding. */
  readonly embedding: ParameterGroup;
  /** Each block's. */
  readonly blocks: readonly ParameterGroup[];
  /** Final norm and LM head. */
  readonly head: ParameterGroup;
}

/** Names within a block, as transformers' Llama has them. */
const BLOCK_NAMES: Readonly<Record<keyof BlockParameters, string>> = {
  attentionNorm: "input_layernorm",
  query: "self_attn.q_proj",
  key: "self_attn.k_proj",
  value: "self_attn.v_proj",
  output: "self_attn.o_proj",
  mlpNorm: "post_attention_layernorm",
  gate: "mlp.gate_proj",
  up: "mlp.up_proj",
  down: "mlp.down_proj",
};

/** Every weight of a model once: embedding, blocks, final norm and, unless tied, the LM head. */
export function parameterSpecs(model: ModelConfig): ParameterSpec[] {
  const { dim, vocab } = model;
  const shapes = blockShapes(model);
  return [
    { name: "model.embed_tokens.weight", shape: [vocab, dim] },
    ...Array.from(
      { length: model.layers },
      (_, layer) => blockKeys().map((key) => ({ name: blockParameterName(layer, key), shape: shapes[key] })),
    ).flat(),
    { name: "model.norm.weight", shape: [dim] },
    ...(model.tiedEmbeddings ? [] : [{ name: "lm_head.weight", shape: [vocab, dim] }]),
  ];
}

/** Options of {@linkcode createParameters}. */
export interface CreateParametersOptions {
  /** Seed of the initial values. */
  readonly seed: number;
  /** Values by name instead of initial ones, all or none: whole weights, or the parts of them that this rank keeps. */
  readonly weights?: ReadonlyMap<string, Float32Array>;
  /** Names of weights that are not trained: they get no gradient. */
  readonly frozen?: ReadonlySet<string>;
  /** Keeps weights and gradients; all of them whole when left out. */
  readonly states?: ModelStates;
  /** Element types; f32 when left out. */
  readonly precision?: Pick<Precision, "weights">;
}

/**
 * Allocates the weights and zeroed gradients. Without given values, projections and embeddings start from a normal
 * distribution of standard deviation {@linkcode INITIAL_STD} and norms from 1; a value depends on the seed, the weight's
 * number and its index alone, so any number of ranks starts from the same bits, and each makes only what it keeps.
 *
 * @throws {RangeError} when a given weight is missing or has another size
 */
export function createParameters(
  backend: Backend,
  model: ModelConfig,
  {
    seed,
    weights,
    frozen = new Set(),
    states = createWholeStates(backend),
    precision = PRECISIONS.f32,
  }: CreateParametersOptions,
): DecoderParameters {
  const specs = parameterSpecs(model);
  if (weights) checkWeights(specs, weights, states);
  const byName = new Map<string, Parameter>();
  for (const [stream, { name, shape }] of specs.entries()) {
    const given = weights?.get(name);
    const initialize = (target: Tensor, part: PartRuns) => {
      const { start, count, stride } = part;
      if (given) backend.write(target, given.length === target.size ? given : takePart(given, part));
      else if (shape.length === 1) backend.ops.fill(target, 1);
      else {
        const columns = count > 1 ? { stride } : {};
        backend.ops.initNormal(target, { std: INITIAL_STD, seed, stream, start, ...columns });
      }
    };
    const dtype = weightType(shape, precision);
    byName.set(name, states.create(name, shape, { initialize, frozen: frozen.has(name), dtype }));
  }
  return assemble(model, byName, states);
}

/** Element type of a weight of that shape: norms stay f32. */
export function weightType(shape: Shape, { weights }: Pick<Precision, "weights">): DType {
  return shape.length === 1 ? "f32" : weights;
}

function assemble(
  model: ModelConfig,
  byName: ReadonlyMap<string, Parameter>,
  states: ModelStates,
): DecoderParameters {
  const get = (name: string) => byName.get(name)!;
  const embedding = get("model.embed_tokens.weight");
  const finalNorm = get("model.norm.weight");
  const head = model.tiedEmbeddings ? embedding : get("lm_head.weight");
  const blocks = Array.from(
    { length: model.layers },
    (_, layer) =>
      Object.fromEntries(
        blockKeys().map((key) => [key, get(blockParameterName(layer, key))]),
      ) as unknown as BlockParameters,
  );
  return {
    embedding,
    blocks,
    finalNorm,
    head,
    all: [...byName.values()],
    groups: {
      embedding: states.group([embedding]),
      blocks: blocks.map((block) => states.group(Object.values(block))),
      head: states.group([finalNorm, head]),
    },
    free: () => states.free(),
  };
}

/** Refuses given values that are neither whole weights nor the parts of them that this rank keeps. */
function checkWeights(
  specs: readonly ParameterSpec[],
  weights: ReadonlyMap<string, Float32Array>,
  states: ModelStates,
): void {
  for (const { name, shape } of specs) {
    const given = weights.get(name);
    if (!given) throw new RangeError(`Cannot load the model: weight ${name} [${shape}] is missing`);
    const { count, length } = states.kept({ name, shape });
    if (given.length !== elementCount(shape) && given.length !== count * length) {
      throw new RangeError(`Cannot load weight ${name}: it has ${given.length} elements, wanted [${shape}]`);
    }
  }
}

function blockKeys(): (keyof BlockParameters)[] {
  return Object.keys(BLOCK_NAMES) as (keyof BlockParameters)[];
}

function blockParameterName(layer: number, key: keyof BlockParameters): string {
  return `model.layers.${layer}.${BLOCK_NAMES[key]}.weight`;
}

/** Shape of each weight of a decoder block. */
export function blockShapes(model: ModelConfig): Record<keyof BlockParameters, Shape> {
  const { dim, ffn, heads, kvHeads, headDim } = model;
  return {
    attentionNorm: [dim],
    query: [heads * headDim, dim],
    key: [kvHeads * headDim, dim],
    value: [kvHeads * headDim, dim],
    output: [dim, heads * headDim],
    mlpNorm: [dim],
    gate: [ffn, dim],
    up: [ffn, dim],
    down: [dim, ffn],
  };
}
