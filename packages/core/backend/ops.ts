/**
 * The kernel vocabulary that every backend implements.
 *
 * Ops write into tensors that the caller allocated; none of them allocates tensors or waits. Numbers are f32 unless an
 * op says otherwise, ids and positions u32. Ops compute in f32 whatever their tensors hold: f16 is read exactly, and what
 * is written to f16 is rounded once, to the nearest, ties to even. Tensors are contiguous and row-major. Legend of dims: B batch, T rows (B × local tokens),
 * S tokens of one sequence on this rank, D model width, H query heads, K kv heads, E head dim, F MLP width,
 * V vocabulary, N any number. "+=" marks results that are added to what is there. Every op checks shapes and throws a
 * `RangeError` that names the op and the shapes. Results are deterministic: the same inputs give the same bits.
 *
 * @module
 */

import type { Tensor } from "../tensor/tensor.ts";

/** Label of a position without a target; ignored by the loss (transformers' -100). */
export const IGNORED_LABEL = 0xffffffff;

/** Label of a position whose target lies in another rank's part of the vocabulary. */
export const OTHER_PART_LABEL = 0xfffffffe;

/** Number of partial sums that {@linkcode Ops.sumSquares} keeps. */
export const PARTIAL_SUMS = 256;

/** Lowest log-sum-exp, of a query that has met no key yet: finite, since WGSL leaves infinities undefined. */
export const EMPTY_LOG_SUM_EXP = -1e30;

/** Options of {@linkcode Ops.matmul}. */
export interface MatmulOptions {
  /** Use aᵀ; `a` is then [k, m]. Default false. */
  transposeA?: boolean;
  /** Use bᵀ; `b` is then [n, k]. Default false. Not together with `transposeA`. */
  transposeB?: boolean;
  /** Add to `out` instead of overwriting it. Default false. */
  accumulate?: boolean;
}

/** Dims of attention that the tensors' shapes do not tell. */
export interface AttentionShape {
  /** Sequences in the batch; rows of q are batch-major: row = b · S + s. */
  readonly batch: number;
  /** Query heads H. */
  readonly heads: number;
  /** Key and value heads K; H must be a multiple of it (1: multi-query). Query head h reads kv head ⌊h·K/H⌋. */
  readonly kvHeads: number;
  /** Head dim E. */
  readonly headDim: number;
  /** Factor on q·kᵀ before the softmax, usually 1/√E. */
  readonly scale: number;
}

/** Inputs of attention: q [B·Sq, H·E], k and v [B·Sk, K·E], and which keys each query sees. */
export interface AttentionInputs {
  /** Queries, rotated. */
  readonly q: Tensor;
  /** Keys, rotated. */
  readonly k: Tensor;
  /** Values. */
  readonly v: Tensor;
  /**
   * Which keys each query sees, by their positions, u32. [Sq]: the global position of every query of a sequence,
   * ascending; it sees all keys up to there. [B·Sq, 2]: the first and the last position that each row sees, neither
   * descending within a sequence; the first ones are where documents start that are packed into a sequence.
   */
  readonly queryPositions: Tensor;
  /** Global position of every key of a sequence, ascending, u32. */
  readonly keyPositions: Tensor;
}

/** Hyperparameters of one AdamW step (Loshchilov & Hutter 2019), in the order of operations of torch.optim.AdamW. */
export interface AdamWOptions {
  /** Learning rate. */
  readonly learningRate: number;
  /** Decay of the first moment. */
  readonly beta1: number;
  /** Decay of the second moment. */
  readonly beta2: number;
  /** Term added to the root of the second moment. */
  readonly epsilon: number;
  /** Decoupled weight decay. */
  readonly weightDecay: number;
  /** Step number from 1, for bias correction. */
  readonly step: number;
  /** Factor on the gradient before anything else, such as the inverse of the loss scale. Default 1. */
  readonly gradientScale?: number;
  /** What rounding to 16 bits draws from; needed where the param or its moments have 16 bits, and unused elsewhere. */
  readonly rounding?: StochasticRounding;
}

/**
 * Stochastic rounding: up or down with odds that make the rounded number right on average, so that updates much smaller
 * than a number of 16 bits can hold add up (Gupta et al. 2015). Drawn from a hash of seed, stream, step and the number of
 * the element, so that it does not depend on how ranks divide a weight.
 */
export interface StochasticRounding {
  /** Seed of the run, u32. */
  readonly seed: number;
  /** Number that tells tensors of one run apart, u32. */
  readonly stream: number;
  /** Index of the tensor's first element in the whole weight, for segments. Default 0. */
  readonly start?: number;
}

/** Options of {@linkcode Ops.clipFactor}. */
export interface ClipOptions {
  /** Factor on the gradients that the squares were summed of, such as the inverse of the loss scale. Default 1. */
  readonly gradientScale?: number;
}

/** Options of {@linkcode Ops.rmsNorm}. */
export interface RmsNormOptions {
  /** A residual connection [T, D] before the norm: x += add first. */
  readonly add?: Tensor;
}

/** Options of {@linkcode Ops.rope}. */
export interface RopeOptions {
  /** Turn back, which is the backward. Default false. */
  readonly inverse?: boolean;
  /** A second tensor [B·S, heads·E] to turn alike in the same pass, the keys beside the queries. */
  readonly keys?: { readonly x: Tensor; readonly heads: number };
}

/** Options of {@linkcode Ops.initNormal}. */
export interface InitNormalOptions {
  /** Standard deviation. */
  readonly std: number;
  /** Seed of the run, u32. */
  readonly seed: number;
  /** Number that tells tensors of one run apart, u32. */
  readonly stream: number;
  /** Index of the tensor's first element in the whole weight, for shards. Default 0. */
  readonly start?: number;
  /** Elements of a row of the whole weight, where the tensor [N, M] is M of its columns. Default: M, whole rows. */
  readonly stride?: number;
}

/** The kernels. */
export interface Ops {
  /**
   * out [m, n] = a [m, k] · b [k, n]; NN, NT (`transposeB`) and TN (`transposeA`). `a` and `b` are both f32 or both f16,
   * `out` is either; sums are f32.
   */
  matmul(a: Tensor, b: Tensor, out: Tensor, options?: MatmulOptions): void;

  /** out [T, D] = table [V, D] at ids [T]; both f32 or both f16. Ids are checked by the caller. */
  embedding(ids: Tensor, table: Tensor, out: Tensor): void;
  /**
   * dTable [V, D] += rows of dOut [T, D] by token. `order` [T] holds the rows sorted by id, and `segments` [N, 3] the id,
   * first and last-plus-one index into `order` of each distinct id (see `groupById`): each table row is written by one
   * owner in row order, so the result is deterministic without atomics. dOut is f32 or f16, dTable f32.
   */
  embeddingBackward(order: Tensor, segments: Tensor, dOut: Tensor, dTable: Tensor): void;

  /**
   * out [T, D] = x · rstd · weight [D], rstd [T] = 1/√(mean(x²) + epsilon) (Zhang & Sennrich 2019), with x += `add` before
   * it where that is given. x, out and add are all f32 or all f16; weight and rstd are f32.
   */
  rmsNorm(x: Tensor, weight: Tensor, out: Tensor, rstd: Tensor, epsilon: number, options?: RmsNormOptions): void;
  /**
   * dx [T, D] += gradient of the input; dWeight [D] += gradient of the weight, left out when it is frozen. x, dOut and dx
   * are all f32 or all f16; weight, rstd and dWeight are f32.
   */
  rmsNormBackward(x: Tensor, weight: Tensor, rstd: Tensor, dOut: Tensor, dx: Tensor, dWeight?: Tensor): void;

  /**
   * Rotates x [B·S, heads·E] in place (Su et al. 2021, halves as in transformers' Llama): per head and i < E/2,
   * (x_i, x_{i+E/2}) turns by the angle whose cosine and sine are in table [S, E]: cosines in the first half of a row,
   * sines in the second. x is f32 or f16 (E a multiple of 4), the table f32.
   */
  rope(x: Tensor, table: Tensor, heads: number, options?: RopeOptions): void;

  /**
   * Causal attention by online softmax (Dao et al. 2022); never holds S×S scores. A query sees the keys of its own
   * sequence up to its own position, or those in its range; keys that no query of a tile sees cost nothing. out [B·Sq, H·E], logSumExp [B·Sq, H]. A query without any key gets
   * zeros and {@linkcode EMPTY_LOG_SUM_EXP}. With `resume`, out and logSumExp hold the result over earlier keys and
   * become the result over all keys, as Ring Attention (Liu et al. 2023) needs. q, k, v and out are f32 or f16 (E even).
   */
  attention(
    inputs: AttentionInputs,
    out: Tensor,
    logSumExp: Tensor,
    shape: AttentionShape,
    options?: { resume?: boolean },
  ): void;
  /** delta [T, H] = Σ_e out · dOut of each row and head; out and dOut [T, H·E], each of f32 or f16 (E even). */
  attentionDelta(out: Tensor, dOut: Tensor, delta: Tensor, heads: number): void;
  /**
   * Gradients of attention by recomputing the probabilities from the final log-sum-exp over all keys:
   * dq [B·Sq, H·E] += …, dk and dv [B·Sk, K·E] += …, where k, v may be a part of the keys. Numbers
   * of rows of heads are f32 or f16 (E even), also in what is added to; where all are f16, probabilities and gradients of
   * scores may be rounded to f16, too.
   */
  attentionBackward(
    inputs: AttentionInputs,
    dOut: Tensor,
    logSumExp: Tensor,
    delta: Tensor,
    gradients: { dq: Tensor; dk: Tensor; dv: Tensor },
    shape: AttentionShape,
  ): void;

  /** out [T, F] = silu(gate) · up (Shazeer 2020, SwiGLU), all f32 or all f16. `out` may be `gate` or `up`. */
  gatedActivation(gate: Tensor, up: Tensor, out: Tensor): void;
  /**
   * Backward of {@linkcode Ops.gatedActivation} in place, so that no further buffer is needed: from gate, up and
   * dOut = the gradient of the activation (all [T, F]), gate becomes its gradient, up becomes its gradient, and dOut
   * becomes the activation itself (wanted for the gradient of the weight that follows). All f32 or all f16.
   */
  gatedActivationBackward(gate: Tensor, up: Tensor, dOut: Tensor): void;

  /**
   * Softmax cross-entropy of logits [T, V] with labels [T] u32. losses [T] = the loss of each row, unscaled, 0 where the
   * label is {@linkcode IGNORED_LABEL}; logits become their own gradient: (softmax − one-hot) · scale, 0 in ignored rows. Logits are f32
   * or f16, here and in the two ops below.
   */
  crossEntropy(logits: Tensor, labels: Tensor, losses: Tensor, scale: number): void;
  /**
   * What ranks that hold parts of a vocabulary exchange for its softmax (Shoeybi et al. 2019, section 3): of logits
   * [T, V] with labels [T] u32, out [T, 2] = the log of the sum of exponentials of each row, and its logit at the label, 0
   * where the label is not below V.
   */
  logSumExp(logits: Tensor, labels: Tensor, out: Tensor): void;
  /**
   * Gradient of cross-entropy from the log-sum-exp [T] over all parts of the vocabulary: logits [T, V] become
   * (exp(logits − logSumExp) − one-hot) · scale, and 0 in rows whose label is {@linkcode IGNORED_LABEL}. Labels that are
   * not below V, such as {@linkcode OTHER_PART_LABEL}, are none of these columns.
   */
  crossEntropyGradient(logits: Tensor, labels: Tensor, logSumExp: Tensor, scale: number): void;

  /** out [1] = sum of x [N]. */
  sum(x: Tensor, out: Tensor): void;
  /**
   * out [{@linkcode PARTIAL_SUMS}] += partial sums of squares of x [N]; their sum is the squared norm. One that is not
   * finite stays so and says that a number of x, or the sum, was not.
   */
  sumSquares(x: Tensor, out: Tensor): void;
  /**
   * result [2] = { norm, factor }: norm = gradientScale · √Σ partials, factor = min(1, maxNorm / (norm + 1e-6)) as torch's
   * clip_grad_norm_. Where a partial is not finite, norm is infinite and factor 0. `maxNorm` may be infinite: the factor
   * is 1 then.
   */
  clipFactor(partials: Tensor, result: Tensor, maxNorm: number, options?: ClipOptions): void;
  /**
   * One AdamW step of param, m and v [N] in place, with the gradient times gradientScale and, if given, times the factor
   * of clip, the result of {@linkcode Ops.clipFactor}. Where the norm in clip is not finite nothing changes. grad is
   * f32; param f32 or f16; m and v both f32 or both bf16. What has 16 bits is rounded stochastically.
   */
  adamw(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, options: AdamWOptions, clip?: Tensor): void;

  /** out += x; same number of elements, each of f32 or f16. */
  add(x: Tensor, out: Tensor): void;
  /** x *= factor; f32 or f16. */
  scale(x: Tensor, factor: number): void;
  /** x = value; f32, f16 or bf16. */
  fill(x: Tensor, value: number): void;
  /** out = x; same number of elements and dtype. */
  copy(x: Tensor, out: Tensor): void;
  /** out = x, rounded to the dtype of out; same number of elements, each of f32, f16 or bf16. */
  cast(x: Tensor, out: Tensor): void;
  /**
   * Copies a block of columns between matrices of as many rows: columns outColumn, … of out [T, N] become columns
   * xColumn, … of x [T, M], `columns` of them; the others stay. With `accumulate` they are added to what is there. Both f32 or both f16, and of f16
   * all numbers of columns are even.
   */
  copyColumns(
    x: Tensor,
    xColumn: number,
    out: Tensor,
    outColumn: number,
    columns: number,
    options?: { accumulate?: boolean },
  ): void;
  /**
   * Fills out with reproducible, nearly normal numbers: element i is hashed from (seed, stream, start + i), and eight
   * 16-bit uniforms are added up (Irwin–Hall), in exact integer arithmetic so that every device gives the same bits. With
   * `stride`, element (i, j) is hashed from start + i · stride + j.
   */
  initNormal(out: Tensor, options: InitNormalOptions): void;
}

/** Which rows hold each id. */
export interface IdGroups {
  /** Row numbers sorted by id, rows of one id in ascending order. */
  readonly order: Uint32Array;
  /** For each distinct id: id, first and last-plus-one index into `order`. */
  readonly segments: Uint32Array;
}

/** Groups rows by id for {@linkcode Ops.embeddingBackward}. */
export function groupById(ids: Uint32Array): IdGroups {
  const order = Uint32Array.from(ids.keys()).sort((a, b) => ids[a] - ids[b] || a - b);
  const segments: number[] = [];
  for (let start = 0, i = 1; i <= order.length; i++) {
    if (i < order.length && ids[order[i]] === ids[order[start]]) continue;
    segments.push(ids[order[start]], start, i);
    start = i;
  }
  return { order, segments: Uint32Array.from(segments) };
}
