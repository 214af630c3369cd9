/**
 * Compiles each WGSL source once and turns compile errors into errors with the source in them.
 *
 * @module
 */

import { DeviceError, type DeviceErrors } from "./device_error.ts";
import type { KernelSource } from "./dispatch.ts";

/** Lines of source shown before and after the line at fault. */
const EXCERPT_LINES = 3;

/** A compiled kernel and the layout of what is bound to it. */
export interface CachedPipeline {
  /** The pipeline. */
  readonly pipeline: GPUComputePipeline;
  /** Layout of group 0. */
  readonly layout: GPUBindGroupLayout;
}

/** A binding: `r` a storage buffer that is read, `w` one that is also written, `u` a uniform with a dynamic offset. */
type BindingKind = "r" | "w" | "u";

/** The kinds of all bindings, each a digit to the base 4 above 0: a number, which is found faster than text. */
export type BindingPattern = number;

/** The pattern of nothing bound. */
export const NO_BINDINGS: BindingPattern = 0;

const DIGITS = { r: 1, w: 2, u: 3 } as const;
const KINDS = { 1: "r", 2: "w", 3: "u" } as const;

/** The pattern with one more binding behind the others. */
export function appendBinding(pattern: BindingPattern, kind: BindingKind): BindingPattern {
  return 4 * pattern + DIGITS[kind];
}

function bindingKinds(pattern: BindingPattern): BindingKind[] {
  return pattern === NO_BINDINGS ? [] : Array.from(pattern.toString(4), (digit) => KINDS[digit as "1" | "2" | "3"]);
}

/** Pipelines by source and binding pattern. */
export class PipelineCache {
  readonly #device: GPUDevice;
  readonly #errors: DeviceErrors;
  readonly #directives: string;
  readonly #layouts = new Map<BindingPattern, GPUBindGroupLayout>();
  readonly #pipelines = new Map<string, Map<number, Map<BindingPattern, CachedPipeline>>>();

  /**
   * @param device device to compile for
   * @param errors where compile errors are remembered
   * @param directives WGSL that every source is to start with
   */
  constructor(device: GPUDevice, errors: DeviceErrors, directives = "") {
    this.#device = device;
    this.#errors = errors;
    this.#directives = directives;
  }

  /**
   * The pipeline of a source with entry point `main`. Bindings that the pattern writes but the source only reads are
   * declared `read_write` in it.
   *
   * @param kernel name, for errors
   * @throws {TypeError} when the source does not declare such a binding as `dispatch.ts` says
   */
  get(kernel: string, source: KernelSource, pattern: BindingPattern): CachedPipeline {
    const isText = typeof source === "string";
    const key = isText ? source : source.key;
    const form = isText ? 0 : source.form ?? 0;
    let forms = this.#pipelines.get(key);
    if (!forms) this.#pipelines.set(key, forms = new Map());
    let patterns = forms.get(form);
    if (!patterns) forms.set(form, patterns = new Map());
    let cached = patterns.get(pattern);
    if (!cached) {
      const code = widenAccess(kernel, isText ? source : source.write(), pattern);
      patterns.set(pattern, cached = this.#compile(kernel, code, pattern));
    }
    return cached;
  }

  #compile(kernel: string, code: string, pattern: BindingPattern): CachedPipeline {
    const layout = this.#layout(pattern);
    const module = this.#compileModule(kernel, this.#directives + code);
    const pipeline = this.#errors.guard(
      { what: () => `make a pipeline of kernel ${kernel}`, kernel },
      () =>
        this.#device.createComputePipeline({
          label: kernel,
          layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
          compute: { module, entryPoint: "main" },
        }),
    );
    return { pipeline, layout };
  }

  #compileModule(kernel: string, code: string): GPUShaderModule {
    this.#device.pushErrorScope("validation");
    const module = this.#device.createShaderModule({ label: kernel, code });
    const report = async () => {
      const [error, { messages }] = await Promise.all([this.#device.popErrorScope(), module.getCompilationInfo()]);
      const found = messages.find(({ type }) => type === "error");
      if (!error && !found) return;
      const text = (found?.message ?? error?.message ?? "").trim();
      const excerpt = found && found.lineNum > 0 ? `\n${sourceExcerpt(code, found.lineNum)}` : "";
      this.#errors.record(new DeviceError(`Cannot compile kernel ${kernel}: ${text}${excerpt}`, kernel));
    };
    this.#errors.await(report());
    return module;
  }

  #layout(pattern: BindingPattern): GPUBindGroupLayout {
    let layout = this.#layouts.get(pattern);
    if (!layout) {
      const kinds = bindingKinds(pattern);
      const entries = kinds.map((kind, binding) => ({
        binding,
        visibility: GPUShaderStage.COMPUTE,
        buffer: bufferLayout(kind),
      }));
      this.#layouts.set(pattern, layout = this.#device.createBindGroupLayout({ label: kinds.join(""), entries }));
    }
    return layout;
  }
}

/** The lines around `line` (from 1), numbered, with a mark at the line itself. */
export function sourceExcerpt(code: string, line: number): string {
  const lines = code.split("\n");
  const first = Math.max(1, line - EXCERPT_LINES);
  const last = Math.min(lines.length, line + EXCERPT_LINES);
  const width = String(last).length;
  return lines.slice(first - 1, last)
    .map((text, i) => `${first + i === line ? ">" : " "} ${String(first + i).padStart(width)} | ${text}`)
    .join("\n");
}

function widenAccess(kernel: string, code: string, pattern: BindingPattern): string {
  bindingKinds(pattern).forEach((kind, binding) => {
    if (kind === "u") return;
    const read = `@binding(${binding}) var<storage, read> `;
    const written = `@binding(${binding}) var<storage, read_write> `;
    if (kind === "w") code = code.replace(read, written);
    if (code.includes(kind === "w" ? written : read)) return;
    throw new TypeError(`Cannot bind tensor ${binding} of kernel ${kernel}: its WGSL must say "${read.trim()}"`);
  });
  return code;
}

function bufferLayout(kind: BindingKind): GPUBufferBindingLayout {
  if (kind === "u") return { type: "uniform", hasDynamicOffset: true };
  return { type: kind === "w" ? "storage" : "read-only-storage" };
}
