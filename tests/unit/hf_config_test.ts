import { assertEquals, assertInstanceOf, assertStringIncludes, assertThrows } from "@std/assert";
import { parseHfConfig, UnsupportedModelError } from "../../packages/core/config/hf_config.ts";

const LLAMA = {
  model_type: "llama",
  hidden_act: "silu",
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 320,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: false,
  rope_parameters: { rope_type: "default", rope_theta: 500000 },
};

const LLAMA31_ROPE = { factor: 8, high_freq_factor: 4, low_freq_factor: 1, original_max_position_embeddings: 64 };
const LLAMA31_SCALING = {
  type: "llama3",
  factor: 8,
  lowFrequencyFactor: 1,
  highFrequencyFactor: 4,
  originalPositions: 64,
} as const;

function without(field: keyof typeof LLAMA): Record<string, unknown> {
  return Object.fromEntries(Object.entries(LLAMA).filter(([name]) => name !== field));
}

Deno.test("a configuration of transformers 5 becomes a model shape", () => {
  assertEquals(parseHfConfig(LLAMA), {
    dim: 64,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 16,
    ffn: 160,
    vocab: 320,
    normEpsilon: 1e-5,
    ropeTheta: 500000,
    tiedEmbeddings: false,
  });
});

Deno.test("fields that transformers leaves out get its defaults", () => {
  const model = parseHfConfig({
    model_type: "llama",
    hidden_size: 64,
    intermediate_size: 160,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    vocab_size: 320,
  });
  assertEquals(model.kvHeads, 4);
  assertEquals(model.headDim, 16);
  assertEquals(model.normEpsilon, 1e-6);
  assertEquals(model.ropeTheta, 10000);
  assertEquals(model.tiedEmbeddings, false);
});

Deno.test("scaled RoPE is read in both spellings", () => {
  const five = { ...LLAMA, rope_parameters: { rope_type: "llama3", rope_theta: 500000, ...LLAMA31_ROPE } };
  const four = { ...without("rope_parameters"), rope_theta: 500000 };
  for (
    const json of [
      five,
      { ...four, rope_scaling: { rope_type: "llama3", ...LLAMA31_ROPE } },
      { ...four, rope_scaling: { type: "llama3", ...LLAMA31_ROPE } },
    ]
  ) {
    const model = parseHfConfig(json);
    assertEquals(model.ropeTheta, 500000);
    assertEquals(model.ropeScaling, LLAMA31_SCALING);
  }
  assertEquals(parseHfConfig({ ...four, rope_scaling: null }).ropeScaling, undefined);
});

Deno.test("what is not implemented is refused by field and value", () => {
  const cases: [field: string, value: unknown, json?: unknown][] = [
    ["model_type", "mistral"],
    ["hidden_act", "gelu"],
    ["hidden_activation", "gelu_pytorch_tanh"],
    ["attention_bias", true],
    ["mlp_bias", true],
    ["attention_dropout", 0.1],
    ["sliding_window", 24],
    ["use_sliding_window", true],
    ["attn_logit_softcapping", 5],
    ["final_logit_softcapping", 3],
    ["query_pre_attn_scalar", 24],
    ["quantization_config", { bits: 4 }],
    ["layer_types", ["full_attention", "sliding_attention"]],
    ["rope_parameters.rope_type", "yarn", { ...LLAMA, rope_parameters: { rope_type: "yarn", rope_theta: 1 } }],
    ["rope_scaling.type", "linear", { ...without("rope_parameters"), rope_scaling: { type: "linear", factor: 2 } }],
    ["rope_parameters", { full_attention: {} }, { ...LLAMA, rope_parameters: { full_attention: {} } }],
    ["rope_scaling", { type: "linear" }, { ...LLAMA, rope_scaling: { type: "linear" } }],
    [
      "rope_parameters.partial_rotary_factor",
      0.5,
      { ...LLAMA, rope_parameters: { rope_theta: 1, partial_rotary_factor: 0.5 } },
    ],
  ];
  for (const [field, value, json] of cases) {
    const error = assertThrows(() => parseHfConfig(json ?? { ...LLAMA, [field]: value }), UnsupportedModelError);
    assertInstanceOf(error, UnsupportedModelError);
    assertEquals([error.field, error.value], [field, value]);
    assertStringIncludes(error.message, `${field} ${JSON.stringify(value)}`);
  }
});

Deno.test("missing and malformed fields are named", () => {
  assertThrows(() => parseHfConfig([]), TypeError, "JSON object");
  assertThrows(() => parseHfConfig(without("model_type")), TypeError, "without model_type");
  assertThrows(() => parseHfConfig(without("hidden_size")), TypeError, "without hidden_size");
  assertThrows(() => parseHfConfig({ ...LLAMA, vocab_size: "320" }), TypeError, 'vocab_size "320"');
  assertThrows(() => parseHfConfig({ ...LLAMA, num_hidden_layers: 1.5 }), TypeError, "num_hidden_layers 1.5");
  assertThrows(() => parseHfConfig({ ...LLAMA, tie_word_embeddings: "no" }), TypeError, "tie_word_embeddings");
  assertThrows(() => parseHfConfig({ ...LLAMA, rope_parameters: [] }), TypeError, "rope_parameters");
  const rope = { ...LLAMA, rope_parameters: { rope_type: "llama3", factor: 8 } };
  assertThrows(() => parseHfConfig(rope), TypeError, "rope_parameters.low_freq_factor");
});

Deno.test("dims that do not fit together are refused", () => {
  assertThrows(() => parseHfConfig({ ...LLAMA, num_key_value_heads: 3 }), RangeError, "3 kv heads among 4 heads");
  assertThrows(() => parseHfConfig({ ...LLAMA, head_dim: 15 }), RangeError, "head dim of 15");
});

Deno.test("saved configurations: Llama is read, other models are refused", async () => {
  const read = async (model: string) =>
    JSON.parse(await Deno.readTextFile(new URL(`../golden/${model}/config.json`, import.meta.url)));
  assertEquals(parseHfConfig(await read("llama3")).ropeTheta, 500000);
  assertEquals(parseHfConfig(await read("llama2")).kvHeads, 4);
  assertEquals(parseHfConfig(await read("llama31")).ropeScaling, LLAMA31_SCALING);
  for (const model of ["qwen2", "mistral", "gemma2"]) {
    const json = await read(model);
    assertThrows(() => parseHfConfig(json), UnsupportedModelError, `model_type "${model}"`);
  }
});
