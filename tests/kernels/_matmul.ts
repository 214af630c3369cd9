/**
 * Products by a given variant of the kernels against the reference.
 *
 * @module
 */

import type { Dispatcher, KernelCall } from "../../packages/core/backend/webgpu/dispatch.ts";
import { matmul } from "../../packages/core/backend/webgpu/kernels/matmul.ts";
import type { MatmulVariant } from "../../packages/core/backend/webgpu/kernels/matmul_variant.ts";
import type { MatrixUnit } from "../../packages/core/backend/webgpu/kernels/matrix_unit.ts";
import type { WebGpuBackend } from "../../packages/core/backend/webgpu/webgpu_backend.ts";
import type { DType } from "../../packages/core/tensor/shape.ts";
import { assertOpMatchesReference, type Placement } from "../_support/op_case.ts";
import { Random } from "../_support/random.ts";

/** How a product is transposed. */
export type Layout = "NN" | "NT" | "TN";
/** Dims of a product. */
export type Dims = readonly [m: number, n: number, k: number];

/** Every {@linkcode Layout}. */
export const LAYOUTS: readonly Layout[] = ["NN", "NT", "TN"];

/**
 * Sums of k products of normal numbers in f32, against f64. Each addition rounds a partial sum of about √k to within
 * 2⁻²⁴ of it; over tens of thousands of elements the worst stays below k · 2.4e-7 (seen: 1.6e-7).
 */
export function tolerance(
  k: number,
  dtype: DType = "f32",
): { absolute: number; relative: number; rejectAllZero: true } {
  // Sums that differ in their last bits can round to neighbouring halves, 2⁻¹⁰ apart.
  return { absolute: 2.4e-7 * k, relative: dtype === "f16" ? 2 ** -10 : 1e-6, rejectAllZero: true };
}

/** A product by a given variant, or by the one that `Ops.matmul` takes, against the reference. */
export async function assertProduct(
  backend: WebGpuBackend,
  layout: Layout,
  [m, n, k]: Dims,
  options: {
    accumulate?: boolean;
    variant?: MatmulVariant;
    parts?: number;
    unit?: MatrixUnit;
    dtype?: DType;
    outType?: DType;
    placements?: readonly Placement[];
    dispatcher?: Dispatcher;
  },
): Promise<void> {
  const { accumulate = false, variant, parts = 1, unit, placements, dispatcher = backend.dispatcher } = options;
  const { dtype = "f32", outType = dtype } = options;
  const random = new Random(m * 65_536 + n * 256 + k);
  const normals = (...shape: [number, number]) => ({ shape, data: random.normals(shape[0] * shape[1]), dtype });
  const flags = { transposeA: layout === "TN", transposeB: layout === "NT", accumulate };
  await assertOpMatchesReference(backend, {
    inputs: {
      a: layout === "TN" ? normals(k, m) : normals(m, k),
      b: layout === "NT" ? normals(n, k) : normals(k, n),
      out: { ...normals(m, n), dtype: outType },
    },
    run: (ops, { a, b, out }) => {
      if (ops === backend.ops) matmul(dispatcher, a, b, out, { ...flags, plan: variant && { variant, parts }, unit });
      else ops.matmul(a, b, out, flags);
    },
    results: { out: tolerance(k, outType) },
  }, placements);
}

/** The dispatcher of a backend with other limits, which counts the dispatches. */
export function limited(
  backend: WebGpuBackend,
  limits: Partial<Dispatcher["limits"]>,
): Dispatcher & { calls: KernelCall[] } {
  const { dispatcher } = backend;
  const calls: KernelCall[] = [];
  return {
    limits: { ...dispatcher.limits, ...limits },
    isSoftware: dispatcher.isSoftware,
    features: dispatcher.features,
    subgroupLanes: dispatcher.subgroupLanes,
    workspace: () => dispatcher.workspace(),
    calls,
    run: (call) => {
      calls.push(call);
      dispatcher.run(call);
    },
  };
}
