/**
 * Mini-sequence training: backends, layers, recomputation, the strategy seam and the transport between ranks.
 *
 * The Mini-Sequence Transformer (Luo et al., NeurIPS 2024, arXiv 2407.15892) runs position-wise layers slice by slice
 * along the sequence with activation recomputation, so that large intermediates never exist for the whole sequence.
 *
 * @example Wrap a layer of your own
 * ```ts
 * import { miniSequence, recompute } from "@mst/core";
 *
 * const sliced = miniSequence(recompute(myLayer), { chunks: 8 });
 * ```
 *
 * @module
 */

export * from "./backend/backend.ts";
export * from "./backend/ops.ts";
export { createReferenceBackend, type ReferenceBackendOptions } from "./backend/reference/reference_backend.ts";
export type { WebGpuProvider } from "./backend/webgpu/provider.ts";
export { createWebGpuBackend, type WebGpuOptions } from "./backend/webgpu/webgpu_backend.ts";
export { type HfConfigOptions, parseHfConfig, toHfConfig, UnsupportedModelError } from "./config/hf_config.ts";
export * from "./config/model_config.ts";
export { MODEL_PRESETS } from "./config/presets.ts";
export * from "./config/train_config.ts";
export { applyLayer, type Forward, type Layer, outputLike, rematerializeLayer } from "./layer/layer.ts";
export type { Parameter, ParameterGroup } from "./layer/parameter.ts";
export { type GatheredRows, type Region, type RowSlice, rowsOfSlice, WHOLE_REGION } from "./layer/region.ts";
export { sequential } from "./layer/sequential.ts";
export { type BytesByTag, Ledger, type LedgerOptions, type PeakMemory } from "./memory/ledger.ts";
export { MemoryBudgetError } from "./memory/memory_budget_error.ts";
export * from "./mini_sequence/auto_chunks.ts";
export * from "./mini_sequence/chunk_plan.ts";
export {
  lmHeadLogits,
  type LmHeadLoss,
  lmHeadLoss,
  type LmHeadLossOptions,
  type LmHeadWeights,
} from "./mini_sequence/lm_head_loss.ts";
export { miniSequence, type MiniSequenceOptions } from "./mini_sequence/mini_sequence.ts";
export { type AttentionLayerOptions, createAttentionLayer } from "./model/attention.ts";
export { attentionShape, createDecoder, type Decoder, type DecoderOptions } from "./model/decoder.ts";
export { addEmbeddingGradient, type LayoutStrategy, weightLayout } from "./model/whole_weights.ts";
export { createDecoderBlock, type DecoderBlockOptions } from "./model/decoder_block.ts";
export { batchFromDocuments, batchFromPackedWindows, documentCount, type PackedSequence } from "./model/documents.ts";
export { createMlpLayer } from "./model/mlp.ts";
export * from "./model/parameters.ts";
export { type RotaryAngles, rotaryFrequencies, rotaryTable } from "./model/rope_table.ts";
export * from "./model/token_batch.ts";
export * from "./recompute/policy.ts";
export {
  createHostCheckpoints,
  type HostCheckpoints,
  type HostCheckpointsOptions,
  type WrapLayer,
} from "./recompute/host_checkpoints.ts";
export { recompute } from "./recompute/recompute.ts";
export { recomputeSecond, type ReproducibleLayer } from "./recompute/recompute_second.ts";
export { gathered, type GatheredOptions } from "./sharding/gathered.ts";
export { checkUpdateInBackward, dividedStates, keptOfWeights, type StateSettings } from "./sharding/divided_states.ts";
export {
  createModelStates,
  type CreateParameterOptions,
  createWholeStates,
  type ModelStates,
  type OwnElements,
} from "./sharding/model_states.ts";
export { keepAttentionOutput, withAttentionOutput } from "./strategy/attention_output.ts";
export { type AttentionPositions, positionBytes, uploadPositions } from "./strategy/attention_positions.ts";
export { checkShard } from "./sharding/split_states.ts";
export { ExchangeClock } from "./strategy/exchange_clock.ts";
export { checkHeadSplit, type HeadCounts, headShare, headsOfRank } from "./strategy/head_split.ts";
export {
  attentionBytes,
  attentionOutputBytes,
  createLocalAttention,
  localAttentionMemory,
} from "./strategy/local_attention.ts";
export { checkTokenSplit, contiguousPartition, zigZagPartition } from "./strategy/partition.ts";
export { createReplicatedWeights, type ReplicatedWeights } from "./strategy/replicated_weights.ts";
export { createSingleStrategy } from "./strategy/single.ts";
export type {
  AttentionCore,
  AttentionForwardOptions,
  AttentionMemory,
  AttentionMemoryOptions,
  ExchangeReport,
  Reduction,
  SequenceStrategy,
  TokenPartition,
} from "./strategy/strategy.ts";
export type {
  ComputedBatch,
  NamedShape,
  Placement,
  SplitBatch,
  SplitComputation,
  TensorParallel,
  WeightLayout,
  WeightPart,
} from "./strategy/tensor_parallel.ts";
export { UnsupportedTopologyError } from "./strategy/unsupported.ts";
export { allReduceGradients } from "./strategy/weight_exchange.ts";
export { type Freeable, type Saved, savedGroup, savedTensors, Scope } from "./tensor/scope.ts";
export { type DType, ELEMENT_BYTES, elementBytes, elementCount, sameShape, type Shape } from "./tensor/shape.ts";
export { addHalves } from "./tensor/half.ts";
export { momentType, type Precision, PRECISIONS } from "./tensor/precision.ts";
export { MEMORY_TAGS, type MemoryTag, type Storage, Tensor } from "./tensor/tensor.ts";
export { type Checkpoint, CHECKPOINT_FILES, checkSavable, readCheckpoint } from "./train/checkpoint_files.ts";
export { CheckpointError } from "./train/checkpoint_folder.ts";
export { DataSource, type DataSourceOptions } from "./train/data_source.ts";
export { checkPrecision } from "./train/check_precision.ts";
export { type ChunkCounts, chunkCounts } from "./train/chunk_counts.ts";
export { GROWTH_INTERVAL, INITIAL_LOSS_SCALE, LossScale, type LossScaleState } from "./train/loss_scale.ts";
export { learningRateAt } from "./train/lr_schedule.ts";
export {
  type EstimatedStrategy,
  estimateMemory,
  type MemoryEstimate,
  type MemoryMoment,
} from "./train/memory_estimate.ts";
export { hasModelWeights, readModelFolder, readModelWeights } from "./train/model_folder.ts";
export { createAdamW, createAdamWInBackward, type Optimizer, type OptimizerSettings } from "./train/optimizer.ts";
export {
  createDeviceMoments,
  createHostMoments,
  type HostMomentsOptions,
  MOMENT_PIECE_ELEMENTS,
  type MomentKind,
  type Moments,
  type UpdatedPiece,
} from "./train/moments.ts";
export { SafetensorsError, SafetensorsFile } from "./train/safetensors.ts";
export { type HostTensor, type SafetensorsMetadata, writeSafetensors } from "./train/safetensors_writer.ts";
export {
  type GradientReport,
  type OffloadedBytes,
  type StepReport,
  Trainer,
  type TrainerOptions,
} from "./train/trainer.ts";
export { parseTrainerState, type SavedSettings, type SavedText, type TrainerState } from "./train/trainer_state.ts";
export {
  BYTE_VOCAB,
  END_TOKEN,
  isJsonLines,
  readText,
  type ReadTextOptions,
  type TokenizedText,
} from "./train/training_text.ts";
export { addFloats, bytesOf, floatsOf, pairedSegment, type Segment, segmentBounds } from "./transport/collectives.ts";
export { PeerError, type PeerErrorKind, type PeerFailure, type PeerOperation } from "./transport/errors.ts";
export { type LinkProfile, measureLinks } from "./transport/link_profile.ts";
export { shareMemory, type ShareMemoryOptions } from "./transport/mapped_group.ts";
export { createLoopbackGroups, type LoopbackOptions } from "./transport/loopback.ts";
export type { HostMemory } from "./memory/host_memory.ts";
export type { ProcessGroup, TransportStats } from "./transport/process_group.ts";
export type { ConnectOptions, TlsIdentity } from "./transport/connect_options.ts";
export { connectProcessGroup } from "./transport/rendezvous.ts";
export { release, writable } from "./transport/release.ts";
export { SharedMemory } from "./transport/shared_memory.ts";
export { statsSince } from "./transport/stats.ts";
export { subgroup } from "./transport/subgroup.ts";
export { connectWorkerGroup, type WorkerGroupOptions } from "./transport/worker_group.ts";
