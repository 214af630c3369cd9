/**
 * Training steps of one rank.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { ModelConfig } from "../config/model_config.ts";
import type { Offload, TrainConfig } from "../config/train_config.ts";
import { createDecoder, type Decoder } from "../model/decoder.ts";
import { checkDocuments, documentCount } from "../model/documents.ts";
import { createParameters } from "../model/parameters.ts";
import { checkBatch, type TokenBatch, validTokens } from "../model/token_batch.ts";
import { createHostCheckpoints, type HostCheckpoints } from "../recompute/host_checkpoints.ts";
import { createModelStates, type ModelStates } from "../sharding/model_states.ts";
import { createSplitStates } from "../sharding/split_states.ts";
import type { SequenceStrategy } from "../strategy/strategy.ts";
import { momentType, PRECISIONS } from "../tensor/precision.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type RankStates, readMoments, saveCheckpoint } from "./checkpoint.ts";
import { checkPrecision } from "./check_precision.ts";
import { readTrainerState } from "./checkpoint_files.ts";
import { chunkCounts } from "./chunk_counts.ts";
import { LossScale } from "./loss_scale.ts";
import { learningRateAt } from "./lr_schedule.ts";
import { createDeviceMoments, createHostMoments } from "./moments.ts";
import { createAdamW, createAdamWInBackward, type Optimizer } from "./optimizer.ts";
import type { SavedText } from "./trainer_state.ts";

/** What a trainer is made of. */
export interface TrainerOptions {
  /** Device of this rank; stays with the caller. */
  readonly backend: Backend;
  /** How sequences are spread over ranks; stays with the caller. */
  readonly strategy: SequenceStrategy;
  /** Shape of the model. */
  readonly model: ModelConfig;
  /** How it is trained. */
  readonly train: TrainConfig;
  /**
   * Weights under transformers' names, whole or the parts that this rank keeps; initialised from the seed when left out.
   */
  readonly weights?: ReadonlyMap<string, Float32Array>;
}

/** What one step did; times of this rank in milliseconds. */
export interface StepReport {
  /** Step number, from 1. */
  readonly step: number;
  /** Mean loss over the valid tokens of the step, over all ranks; 0 when there are none. */
  readonly loss: number;
  /** Global gradient norm before clipping; infinite where the step was skipped. */
  readonly gradNorm: number;
  /** Learning rate of the step. */
  readonly learningRate: number;
  /** The whole step. */
  readonly stepMs: number;
  /** Forward and backward, without waiting for peers. */
  readonly computeMs: number;
  /** Time in which an exchange was under way. */
  readonly communicationMs: number;
  /** The part of it in which the device stood idle; all of it where the device cannot tell. */
  readonly exposedCommunicationMs: number;
  /** Clipping and update. */
  readonly optimizerMs: number;
  /** Payload bytes that this rank sent. */
  readonly bytesSent: number;
  /** Documents in the sequences of the step; sequences that are not packed are one each. */
  readonly documents: number;
  /** Factor that the loss had where it is scaled; see {@linkcode LossScale}. */
  readonly lossScale?: number;
  /** Whether gradients were not finite, so that weights stayed as they were. */
  readonly skipped?: boolean;
}

/** Bytes on the host in the place of the device. */
export type OffloadedBytes = Readonly<Record<Offload, number>>;

/** Gradients of one accumulation of micro-batches. */
export interface GradientReport {
  /** Mean loss over the valid tokens. */
  readonly loss: number;
  /** Gradients by parameter name, summed over ranks. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

/**
 * Trains a decoder on one rank; every rank runs its own with the same batches. Between steps only weights, gradients and
 * optimizer states live on the device.
 */
export class Trainer implements Disposable {
  readonly #backend: Backend;
  readonly #strategy: SequenceStrategy;
  readonly #model: ModelConfig;
  readonly #train: TrainConfig;
  readonly #states: ModelStates;
  readonly #optimizer: Optimizer;
  readonly #hostCheckpoints: HostCheckpoints;
  readonly #decoder: Decoder;
  #step = 0;
  #lossScale?: LossScale;

  /**
   * @throws {UnsupportedTopologyError} when the strategy cannot split the sequence, or not train in that precision
   * @throws {RangeError} when given weights do not fit the model, or its dims the precision
   */
  constructor({ backend, strategy, model, train, weights }: TrainerOptions) {
    this.#backend = backend;
    this.#strategy = strategy;
    this.#model = model;
    this.#train = train;
    checkPrecision(model, train, strategy);
    const { mlpChunks, headChunks } = chunkCounts(model, train, strategy);
    this.#states = strategy.tensorParallel
      ? createSplitStates(backend, strategy, strategy.tensorParallel(model), train)
      : createModelStates(backend, strategy, train);
    const precision = PRECISIONS[train.precision];
    const parameters = createParameters(backend, model, { seed: train.seed, weights, states: this.#states, precision });
    if (train.precision === "mixed") this.#lossScale = new LossScale();
    this.#optimizer = (train.optimizerInBackward ? createAdamWInBackward : createAdamW)(backend, this.#states, {
      moments: momentType(train),
      seed: train.seed,
      skipsNonFinite: this.#lossScale !== undefined,
      createMoments: train.offload.includes("optimizer") ? createHostMoments : createDeviceMoments,
    });
    this.#hostCheckpoints = createHostCheckpoints(backend, model.layers, { onDevice: train.deviceCheckpoints });
    this.#decoder = createDecoder({
      backend,
      model,
      parameters,
      strategy,
      seqTokens: train.seqTokens,
      mlpChunks,
      headChunks,
      policy: train.recompute,
      hostCheckpoints: train.offload.includes("checkpoints") ? this.#hostCheckpoints : undefined,
      precision,
    });
  }

  /** Global positions of this rank's tokens. */
  get positions(): Uint32Array {
    return this.#decoder.partition.positions[this.#strategy.rank];
  }

  /** Bytes that are kept on the host instead of the device, by what they are. */
  get offloadedBytes(): OffloadedBytes {
    return { checkpoints: this.#hostCheckpoints.bytes, optimizer: this.#optimizer.moments.hostBytes };
  }

  /**
   * One optimizer step over the micro-batches.
   *
   * @throws {RangeError} when a batch does not fit, or the loss is not finite (the update is then lost)
   */
  async step(batches: readonly TokenBatch[]): Promise<StepReport> {
    const { beta1, beta2, epsilon, weightDecay, clipNorm } = this.#train;
    this.#check(batches); // what is refused is no step
    this.#step++;
    this.#strategy.beginStep(this.#step);
    this.#strategy.takeExchange();
    this.#backend.takeBusyMs().catch(() => {}); // leaves out what ran before; errors are thrown by the reads below
    const startMs = performance.now();
    const learningRate = learningRateAt(this.#step, this.#train);
    const { scale = 1, skippedSteps = 0 } = this.#lossScale?.state ?? {};
    const updates = this.#step - skippedSteps; // as torch's AdamW counts them
    const options = { learningRate, beta1, beta2, epsilon, weightDecay, step: updates, gradientScale: 1 / scale };

    this.#optimizer.begin(options);
    const losses = await this.#forwardBackward(batches, scale);
    const busyMs = await this.#backend.takeBusyMs() ?? 0;
    const computePhaseMs = performance.now() - startMs;
    const attention = this.#strategy.takeExchange();
    await this.#states.reduceGradients();
    const reduced = this.#strategy.takeExchange();
    const reducedAtMs = performance.now();

    using clip = await this.#optimizer.step(options, clipNorm);
    const gathered = this.#strategy.takeExchange();
    const [[gradNorm], ...lossSums] = await this.#backend.readAll([clip, ...losses]);
    const loss = await this.#meanLoss(lossSums, batches);
    const endMs = performance.now();
    const exposedMs = Math.min(attention.communicationMs, Math.max(0, computePhaseMs - busyMs));
    const weightsMs = reduced.communicationMs + gathered.communicationMs; // of gradients and weights
    losses.forEach((tensor) => tensor.free());
    const skipped = this.#lossScale !== undefined && !Number.isFinite(gradNorm);
    this.#assertFinite(loss, skipped ? 0 : gradNorm);
    this.#lossScale?.update(!skipped);

    return {
      step: this.#step,
      loss,
      gradNorm,
      learningRate,
      stepMs: endMs - startMs,
      computeMs: computePhaseMs - exposedMs,
      communicationMs: attention.communicationMs + weightsMs,
      exposedCommunicationMs: exposedMs + weightsMs,
      optimizerMs: endMs - reducedAtMs - gathered.communicationMs,
      bytesSent: attention.bytesSent + reduced.bytesSent + gathered.bytesSent,
      documents: batches.reduce((count, batch) => count + documentCount(batch), 0),
      ...this.#lossScale ? { lossScale: scale, skipped } : {},
    };
  }

  /** Loss and gradients of the micro-batches, without an update. */
  async gradients(batches: readonly TokenBatch[]): Promise<GradientReport> {
    this.#check(batches);
    const scale = this.#lossScale?.state.scale ?? 1;
    const losses = await this.#forwardBackward(batches, scale);
    const gradients = await this.#states.takeGradients();
    if (scale !== 1) gradients.forEach((values) => values.forEach((value, i) => values[i] = value / scale));
    const loss = await this.#meanLoss(await this.#backend.readAll(losses), batches);
    losses.forEach((tensor) => tensor.free());
    return { loss, gradients };
  }

  /** Logits of this rank's rows [B·S_local, V]; their positions are {@linkcode Trainer.positions}. */
  async logits(batch: TokenBatch): Promise<Float32Array> {
    this.#check([batch]);
    return await this.#decoder.logits(batch);
  }

  /**
   * Saves a checkpoint of the step that was taken last, in place of an earlier one in the folder. Every rank calls it,
   * rank 0 writes.
   *
   * @param text what the model is trained on
   * @throws {CheckpointError} on rank 0 when the folder cannot be written; the earlier checkpoint stays as it is
   */
  async save(folder: string, text?: SavedText): Promise<void> {
    await saveCheckpoint(folder, {
      ...this.#rankStates(),
      step: this.#step,
      train: this.#train,
      text,
      lossScale: this.#lossScale?.state,
    });
  }

  /**
   * Goes on after a step of a checkpoint: takes over its moments and loss scale. Its weights are given at construction.
   *
   * @throws {SafetensorsError} when the moments are missing or do not fit the model
   */
  async resume(folder: string, step: number): Promise<void> {
    await readMoments(folder, this.#rankStates());
    const { lossScale } = await readTrainerState(folder);
    if (this.#lossScale && lossScale) this.#lossScale = new LossScale(lossScale);
    this.#step = step;
  }

  /** Frees weights, gradients and optimizer states. */
  [Symbol.dispose](): void {
    this.#optimizer.free();
    this.#states.free();
  }

  #rankStates(): RankStates {
    return {
      backend: this.#backend,
      strategy: this.#strategy,
      model: this.#model,
      states: this.#states,
      optimizer: this.#optimizer,
    };
  }

  /** Adds this rank's gradients of the mean loss times `lossScale`; returns the sum of losses of each micro-batch. */
  async #forwardBackward(batches: readonly TokenBatch[], lossScale: number): Promise<Tensor[]> {
    const scale = lossScale / Math.max(1, countValid(batches));
    const losses: Tensor[] = [];
    for (const batch of batches) losses.push(await this.#decoder.lossAndGradients(batch, scale));
    return losses;
  }

  async #meanLoss(lossSums: readonly Float32Array[], batches: readonly TokenBatch[]): Promise<number> {
    const [sum] = await this.#strategy.sumOverRanks([lossSums.reduce((total, [loss]) => total + loss, 0)]);
    return sum / Math.max(1, countValid(batches));
  }

  #check(batches: readonly TokenBatch[]): void {
    if (batches.length === 0) throw new RangeError("Cannot train on no micro-batches: at least one is needed");
    for (const batch of batches) {
      checkBatch(batch, this.#train.seqTokens, this.#model.vocab);
      checkDocuments(batch, this.#train);
    }
  }

  #assertFinite(loss: number, gradNorm: number): void {
    if (Number.isFinite(loss) && Number.isFinite(gradNorm)) return;
    throw new RangeError(
      `Cannot go on after step ${this.#step}: loss ${loss}, gradient norm ${gradNorm}; a lower learning rate may help`,
    );
  }
}

function countValid(batches: readonly TokenBatch[]): number {
  return batches.reduce((count, batch) => count + validTokens(batch), 0);
}
