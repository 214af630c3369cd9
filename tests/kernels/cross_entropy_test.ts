import { IGNORED_LABEL, OTHER_PART_LABEL } from "../../packages/core/backend/ops.ts";
import { GPU_VARIANTS, gpuTest } from "../_support/gpu.ts";
import { assertOpMatchesReference } from "../_support/op_case.ts";
import { Random } from "../_support/random.ts";

/** WGSL's exp is good to 3 + 2·|x| ULP; logits lie within 40 of one another: 83 ULP, and a sum of some thousands. */
const EXPONENTIAL = { absolute: 1e-6, relative: 1e-5 };

/** As above with a rounding to f16, which may fall on either side, and is as coarse as 2⁻²⁴ where numbers are small. */
const HALF = { absolute: 2 ** -23, relative: 2 ** -10 + 1e-5, rejectAllZero: true };

/** Rows and vocabulary: one, bytes with an end marker, a multiple of 4, larger than a workgroup. */
const SIZES = [[1, 1], [5, 257], [33, 64], [70, 1000], [3, 5003], [2, 20_000]];

for (const { label, options } of GPU_VARIANTS) {
  for (const [rows, vocabulary] of SIZES) {
    // A row has to fit a binding.
    const maxBindingBytes = options.maxBindingBytes && vocabulary > 1000 ? 128 * 1024 : options.maxBindingBytes;
    gpuTest(`cross-entropy of ${rows} × ${vocabulary}${label}`, async (backend) => {
      const random = new Random(vocabulary);
      const labels = random.integers(rows, vocabulary);
      for (let row = 3; row < rows; row += 4) labels[row] = IGNORED_LABEL;
      labels[rows - 1] = vocabulary - 1;
      await assertOpMatchesReference(backend, {
        inputs: {
          logits: { shape: [rows, vocabulary], data: random.normals(rows * vocabulary, 5) },
          labels: { shape: [rows], data: labels },
          losses: { shape: [rows], data: random.normals(rows) },
        },
        run: (ops, { logits, labels, losses }) => ops.crossEntropy(logits, labels, losses, 0.25),
        results: { logits: EXPONENTIAL, losses: EXPONENTIAL },
      });
    }, { ...options, maxBindingBytes });

    gpuTest(`log-sum-exp and its gradient of ${rows} × ${vocabulary}${label}`, async (backend) => {
      const random = new Random(vocabulary + 1);
      const labels = random.integers(rows, vocabulary);
      for (let row = 1; row < rows; row += 4) labels[row] = OTHER_PART_LABEL;
      for (let row = 2; row < rows; row += 4) labels[row] = vocabulary;
      for (let row = 3; row < rows; row += 4) labels[row] = IGNORED_LABEL;
      const logits = { shape: [rows, vocabulary], data: random.normals(rows * vocabulary, 5) };
      await assertOpMatchesReference(backend, {
        inputs: {
          logits,
          labels: { shape: [rows], data: labels },
          out: { shape: [rows, 2], data: random.normals(2 * rows) },
        },
        run: (ops, { logits, labels, out }) => ops.logSumExp(logits, labels, out),
        results: { out: EXPONENTIAL },
      });
      await assertOpMatchesReference(backend, {
        inputs: {
          logits,
          labels: { shape: [rows], data: labels },
          logSumExp: { shape: [rows], data: random.normals(rows, 2).map((value) => value + 15) },
        },
        run: (ops, { logits, labels, logSumExp }) => ops.crossEntropyGradient(logits, labels, logSumExp, 0.25),
        results: { logits: EXPONENTIAL },
      });
    }, { ...options, maxBindingBytes });
  }
}

// Both families of kernels, one of them with small bindings.
for (const { label, options } of GPU_VARIANTS.slice(2)) {
  // Groups of 2, 4 and 8, which one lane or several share.
  for (const [rows, vocabulary] of [[5, 258], [9, 36], [6, 1000]]) {
    gpuTest(`f16: cross-entropy and log-sum-exp of ${rows} × ${vocabulary}${label}`, async (backend) => {
      const random = new Random(vocabulary);
      const numbers = random.integers(rows, vocabulary);
      for (let row = 3; row < rows; row += 4) numbers[row] = IGNORED_LABEL;
      numbers[rows - 1] = vocabulary - 1;
      const labels = { shape: [rows], data: numbers };
      const logits = { shape: [rows, vocabulary], data: random.normals(rows * vocabulary, 3), dtype: "f16" as const };
      await assertOpMatchesReference(backend, {
        inputs: { logits, labels, losses: { shape: [rows], data: random.normals(rows) } },
        run: (ops, { logits, labels, losses }) => ops.crossEntropy(logits, labels, losses, 16),
        results: { logits: HALF, losses: EXPONENTIAL },
      });
      await assertOpMatchesReference(backend, {
        inputs: { logits, labels, out: { shape: [rows, 2], data: random.normals(2 * rows) } },
        run: (ops, { logits, labels, out }) => ops.logSumExp(logits, labels, out),
        results: { out: EXPONENTIAL },
      });
      const logSumExp = { shape: [rows], data: random.normals(rows, 2).map((value) => value + 10) };
      await assertOpMatchesReference(backend, {
        inputs: { logits, labels, logSumExp },
        run: (ops, { logits, labels, logSumExp }) => ops.crossEntropyGradient(logits, labels, logSumExp, 16),
        results: { logits: HALF },
      });
    }, options);
  }
}

gpuTest("cross-entropy of extreme logits and of ignored labels only", async (backend) => {
  const logits = new Float32Array([1e4, -1e4, 0, 9999, -3e4, -3e4, -3e4, -3e4, 80, 80, 80, 80]);
  for (const labels of [[1, 2, 3], [IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL]]) {
    await assertOpMatchesReference(backend, {
      inputs: {
        logits: { shape: [3, 4], data: logits },
        labels: { shape: [3], data: new Uint32Array(labels) },
        losses: { shape: [3], data: new Float32Array(3).fill(7) },
      },
      run: (ops, { logits, labels, losses }) => ops.crossEntropy(logits, labels, losses, 1),
      results: { logits: EXPONENTIAL, losses: EXPONENTIAL },
    });
  }
});

gpuTest("cross-entropy of a vocabulary of 128,257", async (backend) => {
  const [rows, vocabulary] = [2, 128_257];
  const random = new Random(7);
  await assertOpMatchesReference(backend, {
    inputs: {
      logits: { shape: [rows, vocabulary], data: random.normals(rows * vocabulary, 3) },
      labels: { shape: [rows], data: random.integers(rows, vocabulary) },
      losses: { shape: [rows], data: new Float32Array(rows) },
    },
    run: (ops, { logits, labels, losses }) => ops.crossEntropy(logits, labels, losses, 1),
    results: { logits: EXPONENTIAL, losses: EXPONENTIAL },
  }, ["own"]);
});
