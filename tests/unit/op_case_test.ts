import { AssertionError, assertRejects } from "@std/assert";
import type { Ops } from "../../packages/core/backend/ops.ts";
import { createReferenceBackend } from "../../packages/core/backend/reference/reference_backend.ts";
import { Tensor } from "../../packages/core/tensor/tensor.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";

type Run = (ops: Ops, tensors: Record<"x" | "y", Tensor>) => void;

/** Compares an op that does one thing on the reference, where it runs first, and another on the other backend. */
async function compare(onReference: Run, onOther: Run): Promise<void> {
  await using backend = createReferenceBackend();
  const runs = [onReference];
  const numbers = { shape: [5], data: new Float32Array([1, 2, 3, 4, 5]) };
  await assertOpMatchesReference(backend, {
    inputs: { x: numbers, y: numbers },
    run: (ops, tensors) => (runs.pop() ?? onOther)(ops, tensors),
    results: { x: { relative: 0.01 } },
  });
}

const double: Run = (ops, { x }) => ops.scale(x, 2);

Deno.test("the comparison of an op with the reference accepts what is within tolerance", async () => {
  await compare(double, double);
  await compare(double, (ops, { x }) => ops.scale(x, 2.01));
});

Deno.test("the comparison of an op with the reference refuses a wrong result", async () => {
  await assertRejects(() => compare(double, (ops, { x }) => ops.scale(x, 2.1)), AssertionError, "x, tensors own");
});

Deno.test("the comparison of an op with the reference refuses a change of what is no result", async () => {
  const alsoY: Run = (ops, { x, y }) => {
    ops.scale(x, 2);
    ops.scale(y, 2);
  };
  await assertRejects(() => compare(double, alsoY), AssertionError, "y, tensors own: must not change");
});

Deno.test("the comparison of an op with the reference refuses a write past a tensor", async () => {
  const tooFar: Run = (ops, { x }) => {
    ops.scale(x, 2);
    if (x.offset > 0) ops.fill(new Tensor(x.storage, [1], "f32", x.offset + x.size), 0);
  };
  await assertRejects(() => compare(double, tooFar), AssertionError, "next to a tensor, must not change");
});
