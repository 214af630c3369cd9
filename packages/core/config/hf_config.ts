/**
 * A model's shape as the config.json that Hugging Face transformers saves, read and written.
 *
 * Both spellings of the rotary settings are read: `rope_parameters` (transformers 5) and `rope_theta` with
 * `rope_scaling` (before). What would change the numbers and is not implemented is refused by name.
 *
 * @module
 */

import { type ModelConfig, parseModelConfig, type RopeScaling } from "./model_config.ts";

/** A model asks for something that is not implemented; names the field of config.json and its value. */
export class UnsupportedModelError extends Error {
  override readonly name = "UnsupportedModelError";

  /**
   * @param field field of config.json, dotted where nested
   * @param value what it holds
   * @param wanted what it would have to be, in words
   */
  constructor(readonly field: string, readonly value: unknown, wanted: string) {
    super(`Cannot run a model with ${field} ${JSON.stringify(value)}: it must be ${wanted}`);
  }
}

type Json = Readonly<Record<string, unknown>>;

/** Fields that change a Llama's numbers unless they are absent or hold one of these values. */
const REQUIRED_VALUES: ReadonlyMap<string, readonly unknown[]> = new Map<string, readonly unknown[]>([
  ["model_type", ["llama"]],
  ["hidden_act", ["silu", "swish"]],
  ["hidden_activation", ["silu", "swish"]],
  ["attention_bias", [false]],
  ["mlp_bias", [false]],
  ["attention_dropout", [0]],
  ["sliding_window", [null]],
  ["use_sliding_window", [false]],
  ["attn_logit_softcapping", [null]],
  ["final_logit_softcapping", [null]],
  ["query_pre_attn_scalar", [null]],
  ["partial_rotary_factor", [null, 1]],
  ["quantization_config", [null]],
]);

/** transformers' default of `rope_theta` for Llama. */
const DEFAULT_ROPE_THETA = 10000;

/** transformers' default of `rms_norm_eps` for Llama. */
const DEFAULT_NORM_EPSILON = 1e-6;

/**
 * Shape of the model that a parsed config.json describes, with transformers' defaults for absent fields.
 *
 * @throws {UnsupportedModelError} when the model needs something that is not implemented
 * @throws {TypeError} when the value is no object, or a field is missing or of the wrong type
 * @throws {RangeError} when the dims do not fit together
 */
export function parseHfConfig(json: unknown): ModelConfig {
  if (!isObject(json)) throw new TypeError("Cannot read a model's configuration: it must be a JSON object");
  if (json.model_type === undefined) throw missing("model_type", "a text");
  for (const [field, allowed] of REQUIRED_VALUES) requireValue(json, field, allowed);
  requireFullAttention(json.layer_types);
  const dim = count(json, "hidden_size");
  const heads = count(json, "num_attention_heads");
  const rope = parseRope(json);
  return parseModelConfig({
    dim,
    layers: count(json, "num_hidden_layers"),
    heads,
    kvHeads: isAbsent(json.num_key_value_heads) ? heads : count(json, "num_key_value_heads"),
    headDim: isAbsent(json.head_dim) ? Math.floor(dim / heads) : count(json, "head_dim"),
    ffn: count(json, "intermediate_size"),
    vocab: count(json, "vocab_size"),
    normEpsilon: isAbsent(json.rms_norm_eps) ? DEFAULT_NORM_EPSILON : positive(json, "rms_norm_eps"),
    ropeTheta: rope.theta,
    ...(rope.scaling && { ropeScaling: rope.scaling }),
    tiedEmbeddings: json.tie_word_embeddings === undefined ? false : flag(json, "tie_word_embeddings"),
  });
}

/** What a config.json says besides the shape. */
export interface HfConfigOptions {
  /** Longest sequence that the model is meant for. */
  readonly maxPositions: number;
  /** Token that ends a text. */
  readonly endToken?: number;
}

/**
 * The config.json of a model, the inverse of {@linkcode parseHfConfig}. Rotary settings have the spelling that
 * transformers 4 writes, which later versions read, too.
 */
export function toHfConfig(model: ModelConfig, { maxPositions, endToken }: HfConfigOptions): Record<string, unknown> {
  const { ropeScaling: scaling } = model;
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: model.dim,
    num_hidden_layers: model.layers,
    num_attention_heads: model.heads,
    num_key_value_heads: model.kvHeads,
    head_dim: model.headDim,
    intermediate_size: model.ffn,
    vocab_size: model.vocab,
    rms_norm_eps: model.normEpsilon,
    rope_theta: model.ropeTheta,
    rope_scaling: scaling === undefined ? null : {
      rope_type: scaling.type,
      factor: scaling.factor,
      low_freq_factor: scaling.lowFrequencyFactor,
      high_freq_factor: scaling.highFrequencyFactor,
      original_max_position_embeddings: scaling.originalPositions,
    },
    max_position_embeddings: Math.max(maxPositions, scaling ? scaling.originalPositions * scaling.factor : 0),
    tie_word_embeddings: model.tiedEmbeddings,
    hidden_act: "silu",
    attention_bias: false,
    attention_dropout: 0,
    mlp_bias: false,
    bos_token_id: null,
    eos_token_id: endToken ?? null,
    torch_dtype: "float32",
  };
}

function requireValue(json: Json, field: string, allowed: readonly unknown[], path = field): void {
  const value = json[field];
  if (value === undefined || allowed.includes(value)) return;
  throw new UnsupportedModelError(path, value, allowed.map((each) => JSON.stringify(each)).join(" or "));
}

function requireFullAttention(layerTypes: unknown): void {
  if (isAbsent(layerTypes)) return;
  if (Array.isArray(layerTypes) && layerTypes.every((type) => type === "full_attention")) return;
  throw new UnsupportedModelError("layer_types", layerTypes, '"full_attention" in every layer');
}

/** Rotary base and scaling, in either spelling. */
function parseRope(json: Json): { theta: number; scaling?: RopeScaling } {
  if (!isAbsent(json.rope_parameters) && !isAbsent(json.rope_scaling)) {
    throw new UnsupportedModelError("rope_scaling", json.rope_scaling, "null next to rope_parameters");
  }
  const field = isAbsent(json.rope_parameters) ? "rope_scaling" : "rope_parameters";
  const rope = json[field] ?? {};
  if (!isObject(rope)) throw new TypeError(`Cannot read ${field} ${JSON.stringify(rope)}: it must be a JSON object`);
  if (Object.values(rope).some(isObject)) {
    throw new UnsupportedModelError(field, rope, "the same in every layer");
  }
  const holder = isAbsent(rope.rope_theta) ? json : rope;
  const theta = isAbsent(holder.rope_theta) ? DEFAULT_ROPE_THETA : positive(holder, "rope_theta");
  const typeField = rope.rope_type !== undefined ? "rope_type" : "type";
  requireValue(rope, typeField, ["default", "llama3"], `${field}.${typeField}`);
  requireValue(rope, "partial_rotary_factor", [null, 1], `${field}.partial_rotary_factor`);
  if (rope[typeField] !== "llama3") return { theta };
  return {
    theta,
    scaling: {
      type: "llama3",
      factor: positive(rope, "factor", field),
      lowFrequencyFactor: positive(rope, "low_freq_factor", field),
      highFrequencyFactor: positive(rope, "high_freq_factor", field),
      originalPositions: count(rope, "original_max_position_embeddings", field),
    },
  };
}

function count(json: Json, field: string, parent?: string): number {
  const value = positive(json, field, parent);
  if (!Number.isSafeInteger(value)) throw wrong(path(field, parent), value, "a positive whole number");
  return value;
}

function positive(json: Json, field: string, parent?: string): number {
  const value = json[field];
  if (value === undefined) throw missing(path(field, parent), "a positive number");
  if (typeof value !== "number" || !(value > 0 && value < Infinity)) {
    throw wrong(path(field, parent), value, "a positive number");
  }
  return value;
}

function flag(json: Json, field: string): boolean {
  const value = json[field];
  if (typeof value !== "boolean") throw wrong(field, value, "true or false");
  return value;
}

function path(field: string, parent?: string): string {
  return parent === undefined ? field : `${parent}.${field}`;
}

function missing(field: string, wanted: string): TypeError {
  return new TypeError(`Cannot read a model's configuration without ${field}: it must be ${wanted}`);
}

function wrong(field: string, value: unknown, wanted: string): TypeError {
  return new TypeError(`Cannot read ${field} ${JSON.stringify(value)}: it must be ${wanted}`);
}

function isAbsent(value: unknown): value is null | undefined {
  return value === undefined || value === null;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
