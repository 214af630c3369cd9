/**
 * Every flag of the command lines: parser, help and configuration derive from these tables.
 *
 * @module
 */

import { MODEL_PRESETS, OFFLOADS, PRECISION_NAMES, RECOMPUTE_POLICIES, SHARD_STAGES } from "@mst/core";
import { STRATEGY_NAMES } from "../scenario.ts";
import { bytes, choice, choices, count, decimal, type FlagValues, range, text, toggle } from "./flag.ts";

const chunks = (help: string, otherwise: string) => count({ words: ["auto", "off"], example: 8, help, otherwise });

/** Most ranks of a run. */
export const MAX_RANKS = 128;

/** Flags that say how a model is run, the same for every command. */
const RUN_FLAGS = {
  strategy: choice(STRATEGY_NAMES, {
    help: "how the sequence is spread over ranks; single is the control: one rank, no exchange",
    otherwise: "ring",
  }),
  ranks: count({
    words: ["auto"],
    max: MAX_RANKS,
    example: 4,
    help: "GPU processes; auto: the number of GPUs, or 2 where there is only one",
    otherwise: "auto",
  }),
  ulysses: count({
    max: MAX_RANKS,
    example: 2,
    help: "usp: ranks of a group, which trade heads",
    otherwise: "--ranks / --ring, or the most that the heads allow beside a ring of 2",
  }),
  ring: count({
    max: MAX_RANKS,
    example: 2,
    help: "usp: groups, around which keys and values travel",
    otherwise: "--ranks / --ulysses",
  }),
  placement: choice(["zigzag", "contiguous"], {
    help: "tokens of a rank: two blocks that balance causal attention, or one block",
    otherwise: "zigzag",
  }),
  device: choice(["auto", "dawn", "webgpu", "reference"], {
    help:
      "dawn: WebGPU by npm's webgpu, which reaches tensor cores; webgpu: Deno's own; reference: plain TypeScript; " +
      "auto: dawn if it finds tensor cores, else webgpu if there is a driver, else reference",
    otherwise: "auto",
  }),
  "mini-sequence": chunks(
    "mini-sequences per MLP and LM head; auto: as few as hardly raise the peak, at most those of the paper",
    "auto",
  ),
  "mlp-chunks": chunks("mini-sequences per MLP", "--mini-sequence"),
  "head-chunks": chunks("mini-sequences per LM head", "--mini-sequence"),
  recompute: choice(RECOMPUTE_POLICIES, {
    help: "what backward computes again: none; selective: the MLP; except-attention: all but attention; layer: all",
    otherwise: "layer",
  }),
  shard: choice(SHARD_STAGES, {
    help: "states that ranks divide: none; AdamW's moments (ZeRO stage 1); and gradients (2); and weights (3)",
    otherwise: "none",
  }),
  offload: choices(OFFLOADS, {
    help:
      "what waits in the memory of the host while the device does not need it: the inputs of recomputed layers, AdamW's moments",
    otherwise: "nothing",
  }),
  precision: choice(PRECISION_NAMES, {
    help: "f32; mixed: weights and activations in f16, sums in f32, the loss scaled as gradients allow",
    otherwise: "f32",
  }),
  "device-checkpoints": count({
    example: 8,
    help:
      "last layers whose inputs stay on the device with --offload=checkpoints, for a host that has not room for all",
    otherwise: "1",
  }),
  timeout: count({
    max: 86400,
    example: 60,
    help: "seconds without a sign of life after which a rank is given up",
    otherwise: "120",
  }),
} as const;

/** Flags of a run whose ranks are started by a command on each host. */
const HOST_FLAGS = {
  rendezvous: text({
    values: "ws://HOST:PORT",
    wanted: "the address of rank 0, ws://HOST:PORT or wss://HOST:PORT",
    help: "where rank 0 listens for the commands of other hosts; the secret of the run is in MST_TOKEN",
  }),
  rank: range({
    max: MAX_RANKS - 1,
    help: "which of --ranks this command starts; every rank is started by one of the commands",
  }),
  bind: text({
    values: "ADDRESS",
    wanted: "an address of this machine",
    help: "address to listen at, 0.0.0.0 for all",
    otherwise: "the one that leads to rank 0",
  }),
  "token-file": text({ values: "FILE", wanted: "a file to read", help: "read the secret of the run from a file" }),
  certificate: text({
    values: "FILE",
    wanted: "a certificate in PEM",
    help: "certificate for wss://, which the ranks show and trust",
  }),
  key: text({ values: "FILE", wanted: "a private key in PEM", help: "private key of the certificate" }),
} as const;

/** Flags that say what becomes of the results, the same for every command. */
const OUTPUT_FLAGS = {
  json: text({ values: "FILE", wanted: "a file to write", help: "write the report as JSON, too" }),
  help: toggle("print this text"),
} as const;

const shape = (help: string) => count({ example: 64, help, otherwise: "of the model" });

/** Flags of `deno task bench`. */
export const BENCH_FLAGS = {
  ...RUN_FLAGS,
  model: text({
    values: `${Object.keys(MODEL_PRESETS).join("|")}|DIR`,
    wanted: `${Object.keys(MODEL_PRESETS).join(", ")} or a folder with config.json`,
    help:
      "a named shape, or a folder saved by transformers, with its weights if it has any and no flag changes its shape",
    otherwise: "by device",
  }),
  dim: shape("model width"),
  layers: shape("decoder blocks"),
  heads: shape("query heads"),
  "kv-heads": shape("key and value heads"),
  ffn: shape("MLP width"),
  vocab: shape("vocabulary, 257 or more since text is read as bytes"),
  seq: count({ example: 1024, help: "tokens of a sequence", otherwise: "by device" }),
  batch: count({ example: 2, help: "sequences of a micro-batch", otherwise: "1" }),
  accumulate: count({ example: 2, help: "micro-batches of a step", otherwise: "1" }),
  steps: count({
    example: 10,
    help: "number of the last training step; those before a --resume count",
    otherwise: "by device, 4 with --compare-strategies, 2 with --longest, that of the checkpoint with --resume",
  }),
  save: text({
    values: "DIR",
    wanted: "a folder",
    help: "save a checkpoint after the last step: a model folder as transformers loads it, with what --resume needs",
  }),
  "save-every": count({
    example: 100,
    help: "save one to --save after every N steps, too, in place of the one before",
    otherwise: "off",
  }),
  resume: text({
    values: "DIR",
    wanted: "a folder that --save has written",
    help: "go on from a checkpoint, which has model, seed, text, schedule and step; how it is run is free to differ",
  }),
  warmup: count({
    min: 0,
    example: 2,
    help: "first steps that the tokens/s and times leave out, since they compile kernels",
    otherwise: "1, or 0 of one step",
  }),
  lr: decimal({ example: 0.001, help: "learning rate of AdamW", otherwise: "0.001" }),
  "lr-warmup": count({ min: 0, example: 10, help: "steps of linear warm-up of the learning rate", otherwise: "0" }),
  schedule: choice(["cosine", "constant"], { help: "learning rate after its warm-up", otherwise: "cosine" }),
  clip: decimal({
    example: 1,
    help: "global gradient norm above which gradients are scaled down, 0: off",
    otherwise: "1",
  }),
  "optimizer-in-backward": toggle(
    "update a layer's weights when its backward is done and free its gradients; with --clip=0, and over several ranks where each holds all weights (--shard=none)",
  ),
  "optimizer-states": choice(["f32", "bf16"], {
    help: "element type of AdamW's moments; bf16 is rounded at random, so that small updates add up",
    otherwise: "f32, or bf16 with --precision=mixed",
  }),
  seed: count({ min: 0, max: 2 ** 32 - 1, example: 1, help: "seed of initial weights and data order", otherwise: "0" }),
  "memory-budget": bytes({
    example: "512MiB or 2GiB",
    help: "device memory of tensors that a rank may hold; an allocation beyond it ends the run as out of memory",
    otherwise: "what the device has",
  }),
  data: text({
    values: "FILE",
    wanted: "a file to read",
    help: 'text to train on; *.jsonl: documents to pack, a JSON object with a string "text" a line',
    otherwise: "Moby Dick",
  }),
  pack: toggle("take a plain text as documents: several in a sequence, attention and positions within each alone"),
  separator: text({
    values: "TEXT",
    wanted: "a text, in which \\n and \\t stand for a new line and a tab",
    help: "what lies between the documents of --pack; \\n stands for a new line",
    otherwise: "blank lines",
  }),
  compare: toggle("run as vanilla, with recomputation, and with mini-sequences + recomputation, side by side"),
  "compare-strategies": toggle(
    "run every strategy over --ranks beside one rank, at --seq tokens and twice as many, in one table",
  ),
  longest: toggle("search for the longest sequence that trains under --memory-budget"),
  verify: toggle("compare loss and gradients with one rank; exit code 1 if they differ by more than rounding"),
  profile: toggle(
    "print the time per kernel, and latency and bandwidth of every link between ranks; of ranks that map each other's memory, those of handing it over",
  ),
  ...HOST_FLAGS,
  "print-config": toggle("print the whole validated run as JSON and stop"),
  ...OUTPUT_FLAGS,
} as const;

/** Flags of `deno task verify`. */
export const VERIFY_FLAGS = { ...RUN_FLAGS, ...OUTPUT_FLAGS } as const;

/** Flags given to `deno task bench`. */
export type BenchFlags = FlagValues<typeof BENCH_FLAGS>;

/** Flags given to `deno task verify`. */
export type VerifyFlags = FlagValues<typeof VERIFY_FLAGS>;
