/**
 * Loads and stores of kernels whose tensors hold f32 or numbers of 16 bits. A kernel is written once, on `V`, a few f32
 * numbers; a group is what it loads at a time: one `V`, or two where tensors of 16 bits allow loads of 16 bytes.
 *
 * @module
 */

import { type DType, elementBytes } from "../../../tensor/shape.ts";
import type { Tensor } from "../../../tensor/tensor.ts";
import { type Access, type KernelParam, type KernelTensor, residual } from "../dispatch.ts";
import { type Binding, declare } from "./wgsl.ts";

/** Elements of a group. 1 is for f32 alone, 8 for kernels with a tensor of 16 bits; f32 is then loaded twice. */
export type GroupWidth = 1 | 2 | 4 | 8;

/** How a kernel uses a tensor: `update` loads and stores, `write` only stores. */
export type Use = "read" | "update" | "write";

/** A tensor that a kernel loads and stores by groups. */
export interface GroupTensor {
  /** Name of the binding in WGSL. */
  readonly name: string;
  readonly dtype: DType;
  readonly use: Use;
}

/**
 * The widest groups that tensors of numbers and their row strides in elements allow.
 *
 * @param most widest groups that the kernel takes, 4 or 8; default 8
 */
export function groupWidth(
  tensors: readonly Tensor[],
  strides: readonly number[],
  most: 4 | 8 = 8,
): GroupWidth {
  let widest: 1 | 4 | 8 = most;
  for (const stride of strides) widest = narrower(widest, stride);
  let hasPairs = false;
  let aligned = true;
  for (const { dtype, offset } of tensors) {
    if (elementBytes(dtype) !== 2) aligned &&= offset % 4 === 0;
    else {
      hasPairs = true;
      widest = narrower(widest, offset);
    }
  }
  if (!aligned || widest === 1) return hasPairs ? 2 : 1;
  return hasPairs ? widest : 4;
}

function narrower(width: 1 | 4 | 8, elements: number): 1 | 4 | 8 {
  if (elements % width === 0) return width;
  return elements % 4 === 0 ? 4 : 1;
}

/** Numbers in a `V`. */
export function groupComponents(width: GroupWidth): 1 | 2 | 4 {
  return width === 8 ? 4 : width;
}

/** The param `at_<name>` of a tensor: where it starts in its binding, in what the binding is an array of. */
export function groupStart(tensor: Tensor, width: GroupWidth): number {
  const unit = elementBytes(tensor.dtype) === 2 ? width : width === 8 ? 4 : width === 2 ? 1 : width;
  return residual(tensor) / unit;
}

/** The binding of a tensor. */
export function groupBinding({ name, dtype, use }: GroupTensor, width: GroupWidth): Binding {
  const words = elementBytes(dtype) === 2 ? width / 2 : width === 2 ? 1 : groupComponents(width);
  const word = elementBytes(dtype) === 2 || dtype === "u32" ? "u32" : "f32";
  return [name, use === "read" ? "read" : "read_write", words === 1 ? word : `vec${words}<${word}>`];
}

/**
 * `V`, `Group` and `total(v)`, the sum of the numbers in a `V`. Of u32 where bits are only moved, which no device rounds
 * or flushes then.
 */
export function groupCode(width: GroupWidth, element: "f32" | "u32" = "f32"): string {
  const components = groupComponents(width);
  const sums = { 1: "v", 2: "v.x + v.y", 4: "(v.x + v.y) + (v.z + v.w)" };
  return `alias V = ${components === 1 ? element : `vec${components}<${element}>`};
${width === 8 ? "struct Group { low: V, high: V }" : "alias Group = V;"}
fn total(v: V) -> ${element} { return ${sums[components]}; }
`;
}

/**
 * `load_<name>(i)` and `store_<name>(i, group)` of each tensor, where i counts groups from the tensor's first element.
 * Goes behind the bindings and the params, of which `at_<name>` is one for each.
 */
export function accessCode(tensors: readonly GroupTensor[], width: GroupWidth): string {
  const halves = new Set(tensors.map(({ dtype }) => dtype).filter((dtype) => elementBytes(dtype) === 2));
  return [
    ...[...halves].map((dtype) => dtype === "bf16" ? BF16_CODE : F16_CODE),
    ...tensors.map((tensor) => tensor.use === "write" ? "" : loadCode(tensor, width)),
    ...tensors.map((tensor) => tensor.use === "read" ? "" : storeCode(tensor, width)),
  ].join("");
}

const F16_CODE = `
fn unpack_f16(bits: u32) -> vec2f { return unpack2x16float(bits); }
fn pack_f16(v: vec2f) -> u32 { return pack2x16float(v); }
`;

/** Rounds to the nearest, ties to even; a NaN stays one. */
const BF16_CODE = `
fn unpack_bf16(bits: u32) -> vec2f { return vec2f(bitcast<f32>(bits << 16u), bitcast<f32>(bits & 0xffff0000u)); }
fn pack_bf16(v: vec2f) -> u32 {
  let bits = bitcast<vec2u>(v);
  let rounded = (bits + 0x7fffu + ((bits >> vec2u(16u)) & vec2u(1u))) >> vec2u(16u);
  let halves = select(rounded, vec2u(0x7fc0u), (bits & vec2u(0x7fffffffu)) > vec2u(0x7f800000u));
  return halves.x | (halves.y << 16u);
}
`;

function loadCode({ name, dtype }: GroupTensor, width: GroupWidth): string {
  const head = `fn load_${name}(i: u32) -> Group {`;
  const at = `params.at_${name} +`;
  if (elementBytes(dtype) === 2) {
    const unpacked = (bits: string) => `vec4f(unpack_${dtype}(${bits}.x), unpack_${dtype}(${bits}.y))`;
    if (width === 2) return `${head} return unpack_${dtype}(${name}[${at} i]); }\n`;
    if (width === 4) return `${head} let bits = ${name}[${at} i]; return ${unpacked("bits")}; }\n`;
    return `${head} let bits = ${name}[${at} i]; return Group(${unpacked("bits.xy")}, ${unpacked("bits.zw")}); }\n`;
  }
  if (width === 2) return `${head} return V(${name}[${at} 2u * i], ${name}[${at} 2u * i + 1u]); }\n`;
  if (width === 8) return `${head} return Group(${name}[${at} 2u * i], ${name}[${at} 2u * i + 1u]); }\n`;
  return `${head} return ${name}[${at} i]; }\n`;
}

function storeCode({ name, dtype }: GroupTensor, width: GroupWidth): string {
  const head = `fn store_${name}(i: u32, group: Group) {`;
  const at = `params.at_${name} +`;
  if (elementBytes(dtype) === 2) {
    const packed = (v: string) => `pack_${dtype}(${v}.xy), pack_${dtype}(${v}.zw)`;
    if (width === 2) return `${head} ${name}[${at} i] = pack_${dtype}(group); }\n`;
    if (width === 4) return `${head} ${name}[${at} i] = vec2u(${packed("group")}); }\n`;
    return `${head} ${name}[${at} i] = vec4u(${packed("group.low")}, ${packed("group.high")}); }\n`;
  }
  const twice = (first: string, second: string) =>
    `${head} ${name}[${at} 2u * i] = group.${first}; ${name}[${at} 2u * i + 1u] = group.${second}; }\n`;
  if (width === 2) return twice("x", "y");
  if (width === 8) return twice("low", "high");
  return `${head} ${name}[${at} i] = group; }\n`;
}

/** A tensor in a {@linkcode groupBlock}, the number of its group in WGSL, and what its `V` is called there. */
export type GroupAt = readonly [tensor: GroupTensor, at: string, name?: string];

/**
 * A block of WGSL that loads a group of each tensor, runs `body` on every `V` of it and stores what is written. In the
 * body each tensor's name, or the one given, is its `V`, and `part` the number of the `V` within the group.
 */
export function groupBlock(width: GroupWidth, tensors: readonly GroupAt[], body: string): string {
  const parts = width === 8 ? [".low", ".high"] : [""];
  const uses = tensors.map(([{ name: binding, use }, at, name = binding]) => ({ binding, use, at, name }));
  const written = uses.filter(({ use }) => use !== "read");
  const loads = uses.map(({ binding, use, at, name }) => {
    if (use === "read") return `let ${name}_group = load_${binding}(${at});`;
    const start = use === "update" ? `load_${binding}(${name}_at)` : width === 8 ? "Group(V(), V())" : "V()";
    return `let ${name}_at = ${at}; var ${name}_group = ${start};`;
  });
  const runs = parts.map((part, number) => {
    const names = uses.map(({ use, name }) => `${use === "read" ? "let" : "var"} ${name} = ${name}_group${part};`);
    const results = written.map(({ name }) => `${name}_group${part} = ${name};`);
    return `{ let part = ${number}u; ${names.join(" ")}\n    ${body}\n    ${results.join(" ")} }`;
  });
  const stores = written.map(({ binding, name }) => `store_${binding}(${name}_at, ${name}_group);`);
  return `{ ${[...loads, ...runs, ...stores].join("\n    ")} }`;
}

/** A tensor that a kernel loads and stores by groups, as it is bound. */
export interface BoundGroups extends Omit<GroupTensor, "dtype"> {
  readonly tensor: Tensor;
}

/** A tensor that a kernel reads or writes one by one, bound as an array of `element`. */
export interface BoundElements {
  readonly name: string;
  readonly access: Access;
  readonly element: "f32" | "u32";
  readonly tensor: Tensor;
}

/** What a kernel is bound to. */
export interface GroupBindings {
  /** A number for all that `code` depends on save names, which follow from the kernel; below 16 to the tensors plus 1. */
  readonly form: number;
  /** Writes `V`, `Group`, the bindings, `params` and the functions that load and store. */
  readonly code: () => string;
  /** The tensors by name, for {@linkcode groupBlock}. */
  readonly named: () => Readonly<Record<string, GroupTensor>>;
  readonly tensors: readonly KernelTensor[];
  readonly params: readonly KernelParam[];
}

/**
 * Binds tensors; `params` has `at_<name>` for each of them and then the given fields.
 *
 * @param width width of a group
 * @param groups tensors that are loaded by groups
 * @param elements further tensors
 * @param fields further params by name
 */
export function bindGroups(
  width: GroupWidth,
  groups: readonly BoundGroups[],
  elements: readonly BoundElements[],
  fields: Readonly<Record<string, KernelParam>>,
): GroupBindings {
  const tensors: KernelTensor[] = [];
  const params: KernelParam[] = [];
  let form: number = width;
  for (const { use, tensor } of groups) {
    form = withTensor(form, use, tensor.dtype);
    tensors.push({ tensor, access: use === "read" ? "read" : "read_write" });
    params.push(groupStart(tensor, width));
  }
  for (const { access, tensor } of elements) {
    tensors.push({ tensor, access });
    params.push(residual(tensor));
  }
  params.push(...Object.values(fields));
  const typed = () => groups.map(({ name, use, tensor }): GroupTensor => ({ name, use, dtype: tensor.dtype }));
  return {
    form,
    code: () => bindingCode(width, typed(), elements, fields),
    named: () => Object.fromEntries(typed().map((tensor) => [tensor.name, tensor])),
    tensors,
    params,
  };
}

const USES: readonly Use[] = ["read", "update", "write"];
const DTYPES: readonly DType[] = ["f32", "f16", "bf16", "u32"];

/** A number that tells forms of kernels apart, with one more tensor. */
export function withTensor(form: number, use: Use, dtype: DType): number {
  return 16 * form + 4 * USES.indexOf(use) + DTYPES.indexOf(dtype);
}

function bindingCode(
  width: GroupWidth,
  groups: readonly GroupTensor[],
  elements: readonly BoundElements[],
  fields: Readonly<Record<string, KernelParam>>,
): string {
  const bindings = [
    ...groups.map((tensor) => groupBinding(tensor, width)),
    ...elements.map(({ name, access, element }): Binding => [name, access, element]),
  ];
  const starts = bindings.map(([name]) => `at_${name}`);
  const names = Object.entries(fields).map(([name, value]) => typeof value === "number" ? name : `${name}: f32`);
  return `${groupCode(width)}${declare(bindings, [...starts, ...names])}${accessCode(groups, width)}`;
}

/** Name of a kernel for the profile, with the element types of its tensors where they are not all f32. */
export function kernelName(kernel: string, tensors: readonly Tensor[]): string {
  let name = kernel;
  for (const { dtype } of tensors) {
    if (elementBytes(dtype) === 2 && !name.includes(` ${dtype}`)) name += ` ${dtype}`;
  }
  return name;
}
