/**
 * From flags to a whole validated run.
 *
 * @module
 */

import {
  BYTE_VOCAB,
  type Checkpoint,
  DataSource,
  hasModelWeights,
  isJsonLines,
  MODEL_PRESETS,
  type ModelConfig,
  parseModelConfig,
  parseTrainConfig,
  readModelFolder,
  readText,
  type SavedText,
  type TokenizedText,
} from "@mst/core";
import type { BenchFlags } from "../cli/flags.ts";
import { nearest } from "../cli/nearest.ts";
import { UsageError } from "../cli/usage_error.ts";
import type { Hardware } from "../hardware/probe.ts";
import {
  checkSameText,
  checkSaveFolder,
  describeText,
  planCheckpoints,
  planSteps,
  readResume,
  textFlags,
} from "./checkpoint_plan.ts";
import { DEFAULT_SIZES, DEFAULT_TIMEOUT_SECONDS, type DefaultSizes, deviceClass, SET_STEPS } from "./defaults.ts";
import { type BenchPlan, MODE_FLAGS, ownSteps, type RunConfig } from "./run_config.ts";
import { checkWritable, isSoftwareDevice, resolveChunks, resolveDevice, resolveTopology } from "./run_options.ts";
import { checkStrategy, planStrategies } from "./strategy_plan.ts";

/** Flags that change the shape of a model. */
const SHAPE_FLAGS = ["dim", "layers", "heads", "kv-heads", "ffn", "vocab"] as const;

/** Flags that a mode sets itself, run by run, and why. */
const MODE_SETS: Partial<Record<BenchPlan["mode"], { flags: readonly (keyof BenchFlags)[]; why: string }>> = {
  "compare": {
    flags: ["recompute", "mini-sequence", "mlp-chunks", "head-chunks"],
    why: "it runs with and without, side by side",
  },
  "compare-strategies": { flags: ["strategy"], why: "it runs every strategy that takes several ranks" },
  "longest": { flags: ["seq"], why: "it searches for the longest" },
};

/** What the files that flags name hold; read once. */
export interface BenchInputs {
  /** Training text. */
  readonly text: TokenizedText;
  /** Flags of the training text, those of the checkpoint filled in. */
  readonly textFlags: Pick<BenchFlags, "data" | "separator">;
  /** What checkpoints say of the text, where there are any. */
  readonly savedText?: SavedText;
  /** Checkpoint of `--resume`. */
  readonly checkpoint?: Checkpoint;
  /** Model of `--model` when it is a folder. */
  readonly folder?: { readonly model: ModelConfig; readonly hasWeights: boolean };
}

/**
 * Reads the files that flags name.
 *
 * @throws {UsageError} when one cannot be read, or is not what it has to be
 */
export async function readBenchInputs(flags: BenchFlags): Promise<BenchInputs> {
  await checkWritable(flags.json);
  await checkSaveFolder(flags);
  const inputs = await readTextInputs(flags, await readResume(flags));
  const { model } = flags;
  if (model === undefined || Object.hasOwn(MODEL_PRESETS, model)) return inputs;
  const isFolder = await Deno.stat(model).then(({ isDirectory }) => isDirectory, () => false);
  if (!isFolder) {
    const guess = nearest(model, Object.keys(MODEL_PRESETS));
    throw new UsageError(
      `Cannot use --model=${model}: it is neither ${Object.keys(MODEL_PRESETS).join(", ")} nor a folder` +
        (guess ? `, did you mean ${guess}?` : ""),
    );
  }
  const folder = await blaming(`--model=${model}`, () => readModelFolder(model));
  return { ...inputs, folder: { model: folder, hasWeights: await hasModelWeights(model) } };
}

/** The text, which has to be that of the checkpoint. */
async function readTextInputs(given: BenchFlags, checkpoint?: Checkpoint): Promise<BenchInputs> {
  const flags = textFlags(given, checkpoint);
  const text = await readTrainingText(flags);
  const separator = unescapeSeparator(flags.separator);
  const inputs = { text, checkpoint, textFlags: { data: flags.data, separator } };
  if (!checkpoint && given.save === undefined) return inputs;
  const savedText = await describeText(text, inputs.textFlags);
  if (checkpoint) checkSameText(given, savedText, checkpoint);
  return { ...inputs, savedText };
}

/** Text with the separator of documents as it was meant. */
async function readTrainingText({ data, pack, separator }: BenchFlags): Promise<TokenizedText> {
  if (separator !== undefined && data !== undefined && isJsonLines(data)) {
    throw new UsageError(`Cannot use --separator with --data=${data}: its documents are its lines`);
  }
  if (separator !== undefined && !pack) {
    throw new UsageError("Cannot use --separator without --pack: it lies between the documents of a plain text");
  }
  const text = await blaming(
    `--data=${data}`,
    () => readText(data, { pack, separator: unescapeSeparator(separator) }),
  );
  if (text.tokens.length <= 1) throw new UsageError(`Cannot train on ${text.name}: it has no text`);
  return text;
}

/** What `\n` and `\t` of a command line stand for. */
function unescapeSeparator(separator?: string): string | undefined {
  return separator?.replaceAll("\\n", "\n").replaceAll("\\t", "\t");
}

/**
 * The plan that flags, files and hardware make.
 *
 * @throws {UsageError} when flags contradict each other, or the run is impossible
 */
export function resolveBenchPlan(flags: BenchFlags, inputs: BenchInputs, hardware: Hardware): BenchPlan {
  const mode = resolveMode(flags);
  const device = resolveDevice(flags.device, hardware);
  const sizes = DEFAULT_SIZES[deviceClass(device, isSoftwareDevice(device, hardware))];
  const { modelName, model, weightsFolder } = resolveModel(flags, inputs, sizes);
  const steps = planSteps(flags, inputs.checkpoint, SET_STEPS[mode as keyof typeof SET_STEPS] ?? sizes.steps);
  const comparesStrategies = mode === "compare-strategies";
  const topology = comparesStrategies
    ? resolveTopology({ strategy: "single" }, [], model)
    : resolveTopology(flags, hardware.gpus, model);
  const run: RunConfig = {
    ...topology,
    device,
    modelName,
    model,
    weightsFolder,
    train: refusing(() =>
      parseTrainConfig({
        ...resolveChunks(flags),
        seqTokens: flags.seq ?? (mode === "longest" ? topology.ranks : sizes.seqTokens),
        batch: flags.batch,
        packed: inputs.text.packed,
        accumulate: flags.accumulate,
        seed: flags.seed,
        recompute: flags.recompute,
        shard: flags.shard,
        precision: flags.precision,
        optimizerStates: flags["optimizer-states"],
        offload: flags.offload,
        deviceCheckpoints: flags["device-checkpoints"],
        learningRate: flags.lr,
        warmupSteps: flags["lr-warmup"],
        schedule: flags.schedule,
        clipNorm: flags.clip,
        optimizerInBackward: flags["optimizer-in-backward"],
        ...inputs.checkpoint?.state.train,
        steps: steps.last,
      })
    ),
    ...planCheckpoints(flags, steps, inputs.savedText),
    memoryBudgetBytes: comparesStrategies ? undefined : flags["memory-budget"],
    warmup: flags.warmup ?? (steps.last - steps.taken > 1 ? 1 : 0),
    dataFile: inputs.textFlags.data,
    separator: inputs.textFlags.separator,
    profile: flags.profile ?? false,
    timeoutSeconds: flags.timeout ?? DEFAULT_TIMEOUT_SECONDS,
  };
  checkRun(run, inputs.text);
  const runs = comparesStrategies ? planStrategies(run, flags, hardware.gpus) : [];
  runs.forEach(({ config }) => checkData(config, inputs.text));
  return { run, mode, runs, maxTokens: inputs.text.tokens.length - 1, jsonFile: flags.json };
}

/**
 * Refuses what no hardware could run, before any process looks for a GPU.
 *
 * @throws {UsageError} as {@linkcode resolveBenchPlan}
 */
export function checkBenchFlags(flags: BenchFlags, inputs: BenchInputs): void {
  const adapters = [undefined, { deviceName: "software", isSoftware: true }, { deviceName: "GPU", isSoftware: false }];
  const errors = adapters.map((adapter) => {
    try {
      resolveBenchPlan(flags, inputs, { gpus: [], adapter, dawn: { adapter } });
      return undefined;
    } catch (error) {
      return error;
    }
  });
  if (errors.every((error) => error !== undefined)) throw errors.at(-1);
}

function resolveMode(flags: BenchFlags): BenchPlan["mode"] {
  const [mode, other] = MODE_FLAGS.filter((name) => flags[name]);
  if (!mode) return "train";
  if (other) throw new UsageError(`Cannot use --${mode} with --${other}: each is a set of runs of its own`);
  const { flags: own, why } = MODE_SETS[mode] ?? { flags: [], why: "" };
  const set = own.find((name) => flags[name] !== undefined);
  if (set) throw new UsageError(`Cannot use --${set} with --${mode}: ${why}`);
  if (mode === "longest" && flags["memory-budget"] === undefined) {
    throw new UsageError("Cannot use --longest without --memory-budget: it searches under a budget");
  }
  return mode;
}

function resolveModel(
  flags: BenchFlags,
  { folder, checkpoint }: BenchInputs,
  sizes: DefaultSizes,
): { modelName: string; model: ModelConfig; weightsFolder?: string } {
  if (checkpoint) return { modelName: flags.resume!, model: checkpoint.model, weightsFolder: flags.resume };
  const modelName = flags.model ?? sizes.model;
  const base = folder?.model ?? MODEL_PRESETS[modelName];
  if (SHAPE_FLAGS.every((name) => flags[name] === undefined)) {
    return { modelName, model: base, weightsFolder: folder?.hasWeights ? modelName : undefined };
  }
  const { dim = base.dim, heads = base.heads } = flags;
  const reshaped = flags.dim !== undefined || flags.heads !== undefined;
  if (reshaped && dim % heads !== 0) {
    throw new UsageError(`Cannot split a width of ${dim} into ${heads} heads: --dim must be a multiple of --heads`);
  }
  const model = refusing(() =>
    parseModelConfig({
      ...base,
      dim,
      heads,
      headDim: reshaped ? dim / heads : base.headDim,
      kvHeads: flags["kv-heads"] ?? (heads % base.kvHeads === 0 ? base.kvHeads : heads),
      layers: flags.layers ?? base.layers,
      ffn: flags.ffn ?? base.ffn,
      vocab: flags.vocab ?? base.vocab,
    })
  );
  return { modelName, model };
}

function checkRun(run: RunConfig, text: TokenizedText): void {
  const { model, warmup } = run;
  const steps = ownSteps(run);
  if (model.vocab < BYTE_VOCAB) {
    throw new UsageError(`Cannot train on bytes with a vocabulary of ${model.vocab}: it must be ${BYTE_VOCAB} or more`);
  }
  if (warmup >= steps) {
    const which = run.resume ? `${steps} steps after --resume` : `--steps=${steps}`;
    throw new UsageError(`Cannot leave out --warmup=${warmup} of ${which}: at least one step must be measured`);
  }
  refusing(() => checkStrategy(run));
  checkData(run, text);
}

function checkData({ train }: RunConfig, text: TokenizedText): void {
  refusing(() => new DataSource(text, train));
}

/** Turns the refusal of a size into one of the command line. */
function refusing<T>(check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (error instanceof RangeError) throw new UsageError(error.message, { cause: error });
    throw error;
  }
}

async function blaming<T>(flag: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw new UsageError(`Cannot use ${flag}: ${(cause as Error).message}`, { cause });
  }
}
