/**
 * Inputs of attention for tests, and the runs that they are compared in.
 *
 * @module
 */

import type { AttentionShape, Ops } from "../../packages/core/backend/ops.ts";
import type { Dispatcher, KernelCall } from "../../packages/core/backend/webgpu/dispatch.ts";
import { attention } from "../../packages/core/backend/webgpu/kernels/attention.ts";
import {
  attentionBackward,
  type AttentionBackwardOptions,
} from "../../packages/core/backend/webgpu/kernels/attention_backward.ts";
import type { ForwardVariant } from "../../packages/core/backend/webgpu/kernels/attention_forward_variant.ts";
import type { AttentionVariant, VariantDevice } from "../../packages/core/backend/webgpu/kernels/attention_variant.ts";
import type { WebGpuBackend } from "../../packages/core/backend/webgpu/webgpu_backend.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { queryRanges } from "../../packages/core/strategy/attention_positions.ts";
import type { Tolerance } from "../_support/compare.ts";
import { documentStarts } from "../_support/documents.ts";
import type { Input } from "../_support/op_case.ts";
import { Random } from "../_support/random.ts";

/** Dims of a case, and where its queries and keys stand in the whole sequence. */
export interface AttentionCase {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly queries: ArrayLike<number>;
  readonly keys: ArrayLike<number>;
  /** Lengths of the documents of each sequence, over all positions; left out: queries see all keys up to them. */
  readonly documents?: readonly (readonly number[])[];
  /** Standard deviation of q and k; the scores have its square. */
  readonly std?: number;
}

/** Tensors of a case. */
export type Name =
  | "q"
  | "k"
  | "v"
  | "queryPositions"
  | "keyPositions"
  | "dOut"
  | "out"
  | "logSumExp"
  | "delta"
  | "dq"
  | "dk"
  | "dv";

/** Positions start, start + 1, … */
export function positions(count: number, start = 0): number[] {
  return Array.from({ length: count }, (_, i) => start + i);
}

/** Positions of a rank that owns the blocks `rank` and 2 · ranks − 1 − `rank` of the sequence. */
export function zigZag(rank: number, ranks: number, block: number): number[] {
  return [rank, 2 * ranks - 1 - rank].flatMap((index) => positions(block, index * block));
}

/** Shape that goes with a case. Scores of normal q and k are normal with `scale` 1/√E. */
export function shapeOf({ batch, heads, kvHeads, headDim }: AttentionCase): AttentionShape {
  return { batch, heads, kvHeads, headDim, scale: 1 / Math.sqrt(headDim) };
}

/** Normally distributed inputs; results hold numbers that must be overwritten or added to. */
export function inputsOf(attentionCase: AttentionCase): Record<Name, Input> {
  const { batch, heads, kvHeads, headDim, queries, keys, documents, std = 1 } = attentionCase;
  const random = new Random(headDim + queries.length * 1000 + keys.length);
  const floats = (rows: number, columns: number, deviation = 1) => ({
    shape: [batch * rows, columns],
    data: random.normals(batch * rows * columns, deviation),
  });
  const [Sq, Sk] = [queries.length, keys.length];
  return {
    q: floats(Sq, heads * headDim, std),
    k: floats(Sk, kvHeads * headDim, std),
    v: floats(Sk, kvHeads * headDim),
    queryPositions: documents
      ? {
        shape: [batch * Sq, 2],
        data: queryRanges(Uint32Array.from(queries), batch, documentStarts(documents)),
      }
      : { shape: [Sq], data: Uint32Array.from(queries) },
    keyPositions: { shape: [Sk], data: Uint32Array.from(keys) },
    dOut: floats(Sq, heads * headDim),
    out: floats(Sq, heads * headDim),
    logSumExp: floats(Sq, heads),
    delta: floats(Sq, heads),
    dq: floats(Sq, heads * headDim),
    dk: floats(Sk, kvHeads * headDim),
    dv: floats(Sk, kvHeads * headDim),
  };
}

/** The same with rows of heads in f16. */
export function halfInputsOf(attentionCase: AttentionCase): Record<Name, Input> {
  const inputs = inputsOf(attentionCase);
  const rows = ["q", "k", "v", "dOut", "out", "dq", "dk", "dv"] as const;
  return { ...inputs, ...Object.fromEntries(rows.map((name) => [name, { ...inputs[name], dtype: "f16" as const }])) };
}

/**
 * Scores of some units are sums of E products, good to some 10 roundings; exp2 is good to 3 + 2·|x| ULP, and weights
 * that count have |x| < 20: 43 ULP or 3e-6. Outputs are means of values below 5; gradients are sums in which such
 * errors average out.
 */
export const TOLERANCE: Omit<Tolerance, "what"> = { absolute: 2e-5, relative: 1e-5 };

/** What the ops write in {@linkcode runAttention}, with one tolerance. */
export function results(tolerance = TOLERANCE): Partial<Record<Name, Omit<Tolerance, "what">>> {
  const gradient = { ...tolerance, rejectAllZero: true };
  const names = { out: tolerance, logSumExp: tolerance, delta: tolerance, dq: gradient, dk: gradient, dv: gradient };
  return names;
}

/** The two attention ops that kernels are tested through, of a backend or with a variant forced. */
export type AttentionOps = Pick<Ops, "attention" | "attentionDelta" | "attentionBackward">;

/** Forward, delta and backward of a whole case. */
export function runAttention(ops: AttentionOps, tensors: Record<Name, Tensor>, shape: AttentionShape): void {
  const { out, logSumExp, delta, dOut } = tensors;
  ops.attention(tensors, out, logSumExp, shape);
  ops.attentionDelta(out, dOut, delta, shape.heads);
  ops.attentionBackward(tensors, dOut, logSumExp, delta, tensors, shape);
}

/** As {@linkcode runAttention}, with the keys of the one sequence in parts, which come in the order given. */
export function runAttentionInParts(
  ops: AttentionOps,
  tensors: Record<Name, Tensor>,
  shape: AttentionShape,
  parts: readonly (readonly [start: number, end: number])[],
): void {
  using scope = new Scope();
  const { out, logSumExp, delta, dOut, dq } = tensors;
  const views = parts.map(([start, end]) => {
    const view = (tensor: Tensor) => scope.own(tensor.rows(start, end));
    const [k, v, keyPositions, dk, dv] = [tensors.k, tensors.v, tensors.keyPositions, tensors.dk, tensors.dv].map(view);
    return { ...tensors, k, v, keyPositions, dq, dk, dv };
  });
  views.forEach((view, i) => ops.attention(view, out, logSumExp, shape, { resume: i > 0 }));
  ops.attentionDelta(out, dOut, delta, shape.heads);
  for (const view of views) ops.attentionBackward(view, dOut, logSumExp, delta, view, shape);
}

/** What {@linkcode forcedOps} changes. */
export interface ForcedOptions extends Partial<VariantDevice> {
  /** How to compute every kernel; left out, it is chosen. */
  readonly variant?: AttentionVariant;
  /** How to compute the forward instead. */
  readonly forwardVariant?: ForwardVariant;
  /** How to compute the backward instead. */
  readonly backward?: AttentionBackwardOptions;
  /** Sees every dispatch. */
  readonly onRun?: (call: KernelCall) => void;
}

/** A device with matrix units, as an H100 is by Dawn. */
export const MATRIX_DEVICE = {
  features: { f16: true, subgroups: true, subgroupMatrix: true },
  limits: {
    maxBindingBytes: 2 ** 31 - 4,
    maxWorkgroupMemoryBytes: 49_152,
    maxInvocations: 1024,
    maxStorageBuffers: 16,
    offsetAlignmentBytes: 64,
    maxLoopTurns: Infinity,
  },
};

/** The ops of a backend with every kernel computed by one variant, or for a device with other limits. */
export function forcedOps(
  backend: WebGpuBackend,
  { variant, forwardVariant, backward, onRun, ...device }: ForcedOptions,
): AttentionOps {
  const changed: Partial<Dispatcher> = {
    ...device,
    run: (call) => {
      onRun?.(call);
      backend.dispatcher.run(call);
    },
  };
  const dispatcher = new Proxy(backend.dispatcher, {
    get: (original, key) => {
      if (key in changed) return changed[key as keyof Dispatcher];
      const value = Reflect.get(original, key);
      return typeof value === "function" ? value.bind(original) : value;
    },
  });
  return {
    attention: (inputs, out, logSumExp, shape, options) =>
      attention(dispatcher, inputs, out, logSumExp, shape, { ...options, variant: forwardVariant ?? variant }),
    attentionDelta: (out, dOut, delta, heads) => backend.ops.attentionDelta(out, dOut, delta, heads),
    attentionBackward: (inputs, dOut, logSumExp, delta, gradients, shape) =>
      attentionBackward(dispatcher, inputs, dOut, logSumExp, delta, gradients, shape, {
        queryVariant: variant,
        keyVariant: variant,
        ...backward,
      }),
  };
}

/** Cases for kernels on matrix units, whose head dims are multiples of 16. */
export const MATRIX_CASES: Readonly<Record<string, AttentionCase>> = {
  "grouped heads, 2 sequences, ragged": {
    batch: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 16,
    queries: positions(41),
    keys: positions(41),
  },
  "zig-zag halves of two ranks": {
    batch: 1,
    heads: 2,
    kvHeads: 1,
    headDim: 16,
    queries: zigZag(0, 2, 21),
    keys: zigZag(1, 2, 17),
  },
  "queries that see no key": {
    batch: 1,
    heads: 1,
    kvHeads: 1,
    headDim: 16,
    queries: positions(50),
    keys: positions(33, 21),
  },
  documents: {
    batch: 2,
    heads: 2,
    kvHeads: 2,
    headDim: 16,
    queries: positions(70),
    keys: positions(70),
    documents: [[40, 30], [7, 20, 43]],
  },
};
