import { assertEquals } from "@std/assert";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { Random } from "../_support/random.ts";
import { zeros } from "../../packages/core/backend/backend.ts";

/** One rounding of a result near 1. */
const ONE_ROUNDING = { absolute: 2 ** -24, relative: 2 ** -24 };

/** One rounding to f16, which may fall on either side where f32 results differ in their last bits. */
const HALF_ROUNDING = { absolute: 2 ** -24, relative: 2 ** -10, rejectAllZero: true };

/** The sigmoid is an exponential, good to 3 + 2·|x| ULP in WGSL (|x| < 6 here: 15 ULP), and some roundings. */
const SIGMOID = { absolute: 1e-6, relative: 4e-6, rejectAllZero: true };

const SIZES = [1, 3, 4, 255, 256, 1030, 5000];

// These kernels are laid out alike for all devices.
for (const { label, options } of GPU_VARIANTS.slice(0, 2)) {
  for (const size of SIZES) {
    const floats = (seed: number) => ({ shape: [size], data: new Random(seed).normals(size) });

    gpuTest(`add, scale, fill and copy of ${size} elements${label}`, async (backend) => {
      await assertOpMatchesReference(backend, {
        inputs: { x: floats(1), out: floats(2) },
        run: (ops, { x, out }) => ops.add(x, out),
        results: { out: ONE_ROUNDING },
      });
      await assertOpMatchesReference(backend, {
        inputs: { x: floats(3) },
        run: (ops, { x }) => ops.scale(x, -0.75),
        results: { x: ONE_ROUNDING },
      });
      for (const value of [0, 1.5]) {
        await assertOpMatchesReference(backend, {
          inputs: { x: floats(4), y: floats(5) },
          run: (ops, { x }) => ops.fill(x, value),
          results: { x: {} },
        });
      }
      await assertOpMatchesReference(backend, {
        inputs: { x: floats(6), out: floats(7) },
        run: (ops, { x, out }) => ops.copy(x, out),
        results: { out: {} },
      });
    }, options);

    gpuTest(`gated activation of ${size} elements, into any of its tensors${label}`, async (backend) => {
      for (const into of ["out", "gate", "up"] as const) {
        await assertOpMatchesReference(backend, {
          inputs: { gate: floats(8), up: floats(9), out: floats(10) },
          run: (ops, tensors) => ops.gatedActivation(tensors.gate, tensors.up, tensors[into]),
          results: { [into]: SIGMOID },
        });
      }
      await assertOpMatchesReference(backend, {
        inputs: { gate: floats(11), up: floats(12), dOut: floats(13) },
        run: (ops, { gate, up, dOut }) => ops.gatedActivationBackward(gate, up, dOut),
        results: { gate: SIGMOID, up: SIGMOID, dOut: SIGMOID },
      });
    }, options);

    if (size % 2 === 0) {
      const halves = (seed: number, dtype: "f16" | "bf16" = "f16") => ({ ...floats(seed), dtype });
      gpuTest(`f16: add, scale, fill, copy and cast of ${size} elements${label}`, async (backend) => {
        for (const [x, out] of [[halves(1), halves(2)], [halves(1), floats(2)], [floats(1), halves(2)]]) {
          await assertOpMatchesReference(backend, {
            inputs: { x, out },
            run: (ops, { x, out }) => ops.add(x, out),
            results: { out: {} }, // one f32 sum, rounded: every bit
          });
        }
        await assertOpMatchesReference(backend, {
          inputs: { x: halves(3) },
          run: (ops, { x }) => ops.scale(x, -0.7),
          results: { x: {} },
        });
        for (const [value, dtype] of [[0, "f16"], [1.7, "f16"], [1.7, "bf16"]] as const) {
          await assertOpMatchesReference(backend, {
            inputs: { x: halves(4, dtype), y: halves(5, dtype) },
            run: (ops, { x }) => ops.fill(x, value),
            results: { x: {} },
          });
        }
        for (const dtype of ["f16", "bf16"] as const) {
          await assertOpMatchesReference(backend, {
            inputs: { x: halves(6, dtype), out: halves(7, dtype) },
            run: (ops, { x, out }) => ops.copy(x, out),
            results: { out: {} },
          });
        }
        const types = ["f32", "f16", "bf16"] as const;
        for (const [from, to] of types.flatMap((from) => types.map((to) => [from, to] as const))) {
          await assertOpMatchesReference(backend, {
            inputs: { x: { ...floats(6), dtype: from }, out: { ...floats(7), dtype: to } },
            run: (ops, { x, out }) => ops.cast(x, out),
            results: { out: {} },
          });
        }
      }, options);

      gpuTest(`f16: gated activation of ${size} elements, into any of its tensors${label}`, async (backend) => {
        for (const into of ["out", "gate", "up"] as const) {
          await assertOpMatchesReference(backend, {
            inputs: { gate: halves(8), up: halves(9), out: halves(10) },
            run: (ops, tensors) => ops.gatedActivation(tensors.gate, tensors.up, tensors[into]),
            results: { [into]: HALF_ROUNDING },
          });
        }
        await assertOpMatchesReference(backend, {
          inputs: { gate: halves(11), up: halves(12), dOut: halves(13) },
          run: (ops, { gate, up, dOut }) => ops.gatedActivationBackward(gate, up, dOut),
          results: { gate: HALF_ROUNDING, up: HALF_ROUNDING, dOut: HALF_ROUNDING },
        });
      }, options);

      gpuTest(`f16: init normal of ${size} elements has the same bits${label}`, async (backend) => {
        await assertOpMatchesReference(backend, {
          inputs: { out: halves(14) },
          run: (ops, { out }) => ops.initNormal(out, { std: 0.02, seed: 0xfedcba98, stream: 3, start: 7 }),
          results: { out: {} },
        });
      }, options);
    }

    gpuTest(`init normal of ${size} elements has the same bits${label}`, async (backend) => {
      for (const start of [0, 7, 2 ** 32 - 100, 3 * 2 ** 33 + 5]) {
        await assertOpMatchesReference(backend, {
          inputs: { out: floats(14) },
          run: (ops, { out }) => ops.initNormal(out, { std: 0.02, seed: 0xfedcba98, stream: 3, start }),
          results: { out: {} },
        });
      }
      for (const columns of [1, 3, 64].filter((columns) => size % columns === 0)) {
        await assertOpMatchesReference(backend, {
          inputs: { out: { shape: [size / columns, columns], data: floats(14).data } },
          run: (ops, { out }) =>
            ops.initNormal(out, { std: 0.02, seed: 5, stream: 3, start: 2 ** 32 - 7, stride: 2 * columns + 1 }),
          results: { out: {} },
        });
      }
    }, options);

    gpuTest(`adamw of ${size} elements${label}`, async (backend) => {
      const step3 = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, step: 3 };
      const squares = { shape: [size], data: floats(18).data.map((x) => x * x) };
      const inputs = { param: floats(15), grad: floats(16), m: floats(17), v: squares };
      // A handful of f32 roundings; the root and the quotient are good to a few ULP in WGSL.
      const results = {
        param: { absolute: 1e-6, relative: 1e-6 },
        m: { absolute: 2e-7, relative: 2e-7 },
        v: { absolute: 2e-7, relative: 2e-7 },
      };
      await assertOpMatchesReference(backend, {
        inputs,
        run: (ops, { param, grad, m, v }) => ops.adamw(param, grad, m, v, step3),
        results,
      });
      await assertOpMatchesReference(backend, {
        inputs: { ...inputs, clip: { shape: [2], data: new Float32Array([7, 0.125]) } },
        run: (ops, { param, grad, m, v, clip }) => ops.adamw(param, grad, m, v, step3, clip),
        results,
      });
    }, options);
  }
}

/** Param and moments of each element type that a step takes. */
const STATES = [["f16", "bf16"], ["f16", "f32"], ["f32", "bf16"]] as const;

for (const [paramType, momentType] of STATES) {
  for (const size of [2, 36, 64, 1030]) {
    gpuTest(`adamw of ${size} elements of ${paramType} with moments of ${momentType}`, async (backend) => {
      const random = new Random(size);
      const inputs = {
        // Weights of all sizes, those below 2^-14 included, where binary16 has fewer digits.
        param: { shape: [size], data: random.normals(size).map((x, i) => x * 4 ** -(i % 12)), dtype: paramType },
        grad: { shape: [size], data: random.normals(size, 1024) },
        m: { shape: [size], data: random.normals(size), dtype: momentType },
        v: { shape: [size], data: random.normals(size).map((x) => x * x), dtype: momentType },
        clip: { shape: [2], data: new Float32Array([7, 0.125]) },
      };
      const options = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, step: 3 };
      for (const start of [0, 2 ** 32 - 20]) {
        await assertOpMatchesReference(backend, {
          inputs,
          run: (ops, { param, grad, m, v, clip }) =>
            ops.adamw(param, grad, m, v, {
              ...options,
              gradientScale: 2 ** -10,
              rounding: { seed: 5, stream: 9, start },
            }, clip),
          // Numbers that differ in their last f32 bits may be rounded to neighbours.
          results: {
            param: { absolute: paramType === "f16" ? 2 ** -24 : 1e-6, relative: paramType === "f16" ? 2 ** -10 : 1e-6 },
            m: { absolute: 2e-7, relative: momentType === "bf16" ? 2 ** -7 : 2e-7 },
            v: { absolute: 2e-7, relative: momentType === "bf16" ? 2 ** -7 : 2e-7 },
          },
        });
      }
      for (const norm of [Infinity, NaN]) {
        await assertOpMatchesReference(backend, {
          inputs: { ...inputs, clip: { shape: [2], data: new Float32Array([norm, 1]) } },
          run: (ops, { param, grad, m, v, clip }) => {
            const rounding = { seed: 5, stream: 9 };
            ops.adamw(param, grad, m, v, { ...options, rounding }, clip);
            ops.fill(clip, 0);
          },
          results: {}, // nothing changes
        });
      }
    });
  }
}

gpuTest("sigmoid of large numbers stays finite", async (backend) => {
  const gate = new Float32Array([-1e18, -200, -89, -20, 0, 20, 89, 200, 1e18]);
  const ones = new Float32Array(gate.length).fill(1);
  await assertOpMatchesReference(backend, {
    inputs: {
      gate: { shape: [9], data: gate },
      up: { shape: [9], data: ones },
      dOut: { shape: [9], data: ones },
    },
    run: (ops, { gate, up, dOut }) => ops.gatedActivationBackward(gate, up, dOut),
    // What is below 1e-30 is zero for all purposes: the exponent is bounded there.
    results: { gate: { absolute: 1e-6, relative: 1e-5 }, up: { absolute: 1e-6, relative: 1e-5 }, dOut: SIGMOID },
  });
});

gpuTest("elementwise kernels on more than 65,535 workgroups", async (backend) => {
  // Not a multiple of 4, so one element an invocation: 65,536 workgroups of 256 and one element more.
  const size = 65_536 * 256 + 1;
  using x = zeros(backend, [size], "scratch");
  backend.ops.fill(x, 1);
  using out = backend.empty([1], "scratch");
  using last = x.rows(size - 1, size);
  backend.ops.scale(last, 3);
  backend.ops.sum(x, out);
  const [[total], [end]] = await backend.readAll([out, last]);
  assertEquals([total, end], [Math.fround(size + 2), 3]);
});
