/** Negative controls: the checker of gradients must refuse wrong gradients. */

import { AssertionError, assertRejects } from "@std/assert";
import { checkGradients, type GradientCheck } from "../_support/gradient_check.ts";
import { Random } from "../_support/random.ts";

const x = new Random(1).normals(10);

/** f(x) = Σ sin(x_i) · (i + 1), f32 like the output of a kernel. */
const sines: Omit<GradientCheck, "gradients"> = {
  what: "sines",
  inputs: { x },
  loss: ({ x }) => Promise.resolve(x.reduce((sum, value, i) => sum + Math.fround(Math.sin(value)) * (i + 1), 0)),
};
const right = x.map((value, i) => Math.cos(value) * (i + 1));

const wrong: Record<string, Float32Array> = {
  "scaled by 2": right.map((value) => 2 * value),
  "off by 1%": right.map((value) => 1.01 * value),
  "of the other sign": right.map((value) => -value),
  "with one element off": right.with(3, right[3] + 0.05),
  "shifted by one element": right.map((_, i) => right[(i + 1) % right.length]),
  "that is zero": right.map(() => 0),
  "with one element NaN": right.with(2, NaN),
  "with one element infinite": right.with(2, Infinity),
  "that is too short": right.slice(1),
};

for (const directions of [undefined, 8]) {
  const mode = directions === undefined ? "every element" : "random directions";
  Deno.test(`the gradient checker accepts the right gradient (${mode})`, async () => {
    await checkGradients({ ...sines, gradients: { x: right }, directions });
  });
  for (const [fault, gradient] of Object.entries(wrong)) {
    Deno.test(`the gradient checker refuses a gradient ${fault} (${mode})`, async () => {
      await assertRejects(
        () => checkGradients({ ...sines, gradients: { x: gradient }, directions }),
        AssertionError,
        "sines: gradient of x",
      );
    });
  }
}

Deno.test("the gradient checker refuses a loss that does not depend on the input", async () => {
  await assertRejects(
    () => checkGradients({ what: "constant", inputs: { x }, gradients: { x: right }, loss: () => Promise.resolve(1) }),
    AssertionError,
  );
});

Deno.test("the gradient checker refuses to check nothing", async () => {
  await assertRejects(() => checkGradients({ ...sines, gradients: {} }), AssertionError, "no gradient");
});
