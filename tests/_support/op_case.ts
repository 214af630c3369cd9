/**
 * One op on the reference and on another backend, from the same inputs, with tensors placed in several ways.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import type { Backend } from "../../packages/core/backend/backend.ts";
import type { Ops } from "../../packages/core/backend/ops.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import { Scope } from "../../packages/core/tensor/scope.ts";
import { type DType, elementBytes, elementCount, type Shape } from "../../packages/core/tensor/shape.ts";
import type { Tensor } from "../../packages/core/tensor/tensor.ts";
import { assertClose, type Tolerance } from "./compare.ts";

/** What guards hold, exactly in each element type; a kernel that writes past its tensor changes them. */
const GUARD = 12352;

/** Words before each tensor: none is a multiple of 4, and they differ. */
const SHIFTS = [1, 3, 5, 2, 7, 6];

/**
 * Where tensors lie: each at the start of a buffer of its own; each behind a few elements, so that no vector load is
 * aligned; or all floats of an element type in one buffer, at odd places.
 */
export type Placement = "own" | "shifted" | "shared";

/** Every {@linkcode Placement}. */
export const PLACEMENTS: readonly Placement[] = ["own", "shifted", "shared"];

/** A tensor before the op. */
export interface Input {
  readonly shape: Shape;
  readonly data: Float32Array | Uint32Array;
  /** Element type of numbers, to which they are rounded. Default f32. */
  readonly dtype?: DType;
}

/** An op, its tensors by name, and how exact each result has to be. */
export interface OpCase<Name extends string> {
  readonly inputs: Readonly<Record<Name, Input>>;
  readonly run: (ops: Ops, tensors: Record<Name, Tensor>) => void;
  readonly results: Partial<Record<Name, Omit<Tolerance, "what">>>;
}

/**
 * Runs the op on the reference and, in each placement, on `backend`, and compares the results. Fails too when an
 * element next to a tensor has changed, or when a tensor that is no result has.
 */
export async function assertOpMatchesReference<Name extends string>(
  backend: Backend,
  opCase: OpCase<Name>,
  placements: readonly Placement[] = PLACEMENTS,
): Promise<void> {
  await using reference = createReferenceBackend();
  const [expected] = await runCase(reference, opCase, ["own"]);
  const actuals = await runCase(backend, opCase, placements);
  placements.forEach((placement, i) => {
    for (const name of Object.keys(expected) as Name[]) {
      const tolerance = opCase.results[name];
      const what = `${name}, tensors ${placement}`;
      if (tolerance) assertClose(actuals[i][name], expected[name], { ...tolerance, what });
      else assertEquals(actuals[i][name], expected[name], `${what}: must not change`);
    }
  });
}

/** Runs the op in each placement and returns all float tensors as they are after it; waits once. */
async function runCase<Name extends string>(
  backend: Backend,
  { inputs, run }: OpCase<Name>,
  placements: readonly Placement[],
): Promise<Record<Name, Float32Array>[]> {
  using scope = new Scope();
  const names = Object.keys(inputs) as Name[];
  const floats = names.filter((name) => inputs[name].data instanceof Float32Array);
  const places = placements.map((placement) => {
    const placed = placement === "shared"
      ? placeTogether(backend, scope, inputs, names)
      : placeApart(backend, scope, inputs, names, placement === "shifted");
    run(backend.ops, placed.tensors);
    return placed;
  });
  const read = places.flatMap(({ tensors, wholes }) => [...floats.map((name) => tensors[name]), ...wholes]);
  const values = await backend.readAll(read);
  return places.map(({ tensors, wholes }) => {
    const ofTensors = values.splice(0, floats.length);
    assertGuards(values.splice(0, wholes.length), wholes, floats.map((name) => tensors[name]));
    return Object.fromEntries(floats.map((name, i) => [name, ofTensors[i]])) as Record<Name, Float32Array>;
  });
}

interface Placed<Name extends string> {
  readonly tensors: Record<Name, Tensor>;
  /** Float buffers as a whole, guards included. */
  readonly wholes: Tensor[];
}

function placeApart<Name extends string>(
  backend: Backend,
  scope: Scope,
  inputs: Readonly<Record<Name, Input>>,
  names: readonly Name[],
  shifted: boolean,
): Placed<Name> {
  const wholes: Tensor[] = [];
  const tensors = names.map((name, i) => {
    const { data, shape, dtype = "f32" } = inputs[name];
    const shift = shifted ? shiftOf(i, dtype) : 0;
    const isFloat = data instanceof Float32Array;
    const whole = scope.own(backend.empty([shift + data.length + shift], "scratch", isFloat ? dtype : "u32"));
    if (isFloat) wholes.push(whole);
    const guarded = isFloat ? new Float32Array(whole.size).fill(GUARD) : new Uint32Array(whole.size);
    guarded.set(data, shift);
    backend.write(whole, guarded);
    return [name, viewAt(scope, whole, shift, shape)] as const;
  });
  return { tensors: Object.fromEntries(tensors) as Record<Name, Tensor>, wholes };
}

function placeTogether<Name extends string>(
  backend: Backend,
  scope: Scope,
  inputs: Readonly<Record<Name, Input>>,
  names: readonly Name[],
): Placed<Name> {
  const floats = names.filter((name) => inputs[name].data instanceof Float32Array);
  const ids = placeApart(backend, scope, inputs, names.filter((name) => !floats.includes(name)), true);
  const dtypes = [...new Set(floats.map((name) => inputs[name].dtype ?? "f32"))];
  const wholes: Tensor[] = [];
  const tensors = dtypes.flatMap((dtype) => {
    const members = floats.filter((name) => (inputs[name].dtype ?? "f32") === dtype);
    let end = 0;
    const starts = members.map((name, i) => {
      const start = end + shiftOf(i, dtype);
      end = start + inputs[name].data.length;
      return start;
    });
    end += shiftOf(0, dtype);
    const whole = scope.own(backend.empty([end], "scratch", dtype));
    const guarded = new Float32Array(end).fill(GUARD);
    members.forEach((name, i) => guarded.set(inputs[name].data, starts[i]));
    backend.write(whole, guarded);
    wholes.push(whole);
    return members.map((name, i) => [name, viewAt(scope, whole, starts[i], inputs[name].shape)] as const);
  });
  return { tensors: { ...ids.tensors, ...Object.fromEntries(tensors) }, wholes };
}

function shiftOf(number: number, dtype: DType): number {
  return SHIFTS[number % SHIFTS.length] * 4 / elementBytes(dtype);
}

function viewAt(scope: Scope, whole: Tensor, start: number, shape: Shape): Tensor {
  using flat = whole.rows(start, start + elementCount(shape));
  return scope.own(flat.reshape(shape));
}

function assertGuards(values: readonly Float32Array[], wholes: readonly Tensor[], tensors: readonly Tensor[]): void {
  wholes.forEach(({ storage }, i) => {
    const guards = new Set(values[i].keys());
    for (const tensor of tensors.filter((each) => each.storage === storage)) {
      for (let at = 0; at < tensor.size; at++) guards.delete(tensor.offset + at);
    }
    for (const at of guards) assertEquals(values[i][at], GUARD, `Element ${at}, next to a tensor, must not change`);
  });
}
