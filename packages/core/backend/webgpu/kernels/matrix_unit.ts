/**
 * WGSL for products of small matrices by a GPU's matrix units: `Left` [16, 16] · `Right` [16, 16] + `Sum` [16, 16], with
 * operands in f16 and sums in f32.
 *
 * The unit `subgroup` uses subgroup matrices (Dawn's `chromium_experimental_subgroup_matrix`; tensor cores on NVIDIA).
 * `emulated` is the same in plain WGSL, so that the kernels built on matrices are tested on every device: there, each
 * invocation holds whole matrices, tiles of `half` are f32, and nothing depends on the size of real subgroups.
 *
 * Rules for kernels:
 * - A team of 32 neighbouring invocations (`local / 32`) holds a matrix together; all of a team take the same path to
 *   every call here. With `subgroup`, teams are subgroups.
 * - A kernel defines `lane`, the invocation's number within its team.
 * - What a team stored is seen by others, and by its own lanes, after a `workgroupBarrier()`.
 *
 * @module
 */

/** How matrices are multiplied. */
export type MatrixUnit = "subgroup" | "emulated";

/** Rows and columns of every matrix. */
export const MATRIX_SIZE = 16;

/** Invocations that hold a matrix together. */
export const TEAM = 32;

/** How a matrix lies in an array. */
export type MatrixOrder = "row_major" | "col_major";

type MatrixKind = "Left" | "Right" | "Sum";

/** Rows that one turn of an emulated product takes together are unrolled along k by this many. */
const UNROLLED = 8;

/** Makes the expressions of one kernel, and collects the functions that they need. */
export class MatrixCode {
  readonly #functions = new Map<string, string>();

  /** @param unit how matrices are multiplied */
  constructor(readonly unit: MatrixUnit) {}

  /** What the module starts with: extensions and the types `half`, `Left`, `Right` and `Sum`. */
  get head(): string {
    return this.unit === "subgroup" ? SUBGROUP_HEAD : EMULATED_HEAD;
  }

  /** The functions that the expressions made so far call; may stand anywhere behind {@linkcode MatrixCode.head}. */
  get functions(): string {
    return [...this.#functions.values()].join("\n");
  }

  /** Expression of the `Left` at `offset` of an array of `half`, whose rows (or columns) are `stride` apart. */
  left(array: string, offset: string, stride: number | string, order: MatrixOrder = "row_major"): string {
    return this.#load("Left", array, offset, stride, order);
  }

  /** The same of a `Right`. */
  right(array: string, offset: string, stride: number | string, order: MatrixOrder = "row_major"): string {
    return this.#load("Right", array, offset, stride, order);
  }

  /** The same of a `Sum`, from an array of f32. */
  sum(array: string, offset: string, stride: number | string, order: MatrixOrder = "row_major"): string {
    return this.#load("Sum", array, offset, stride, order);
  }

  /** Statement that stores a `Sum` to an array of f32. */
  store(
    array: string,
    offset: string,
    value: string,
    stride: number | string,
    order: MatrixOrder = "row_major",
  ): string {
    if (this.unit === "subgroup") {
      return `subgroupMatrixStore<${order}>(&${array}, ${offset}, ${value}, ${unsigned(stride)});`;
    }
    const name = `store_${array}_${order}`;
    this.#functions.set(name, emulatedStore(name, array, order));
    return `${name}(${offset}, ${value}, ${unsigned(stride)}, lane);`;
  }

  /** Statement that adds `left · right` to the variable `sum`. */
  multiply(sum: string, left: string, right: string): string {
    if (this.unit === "subgroup") return `${sum} = subgroupMatrixMultiplyAccumulate(${left}, ${right}, ${sum});`;
    this.#functions.set("multiply", EMULATED_MULTIPLY);
    return `${sum} = multiply(${left}, ${right}, ${sum});`;
  }

  #load(kind: MatrixKind, array: string, offset: string, stride: number | string, order: MatrixOrder): string {
    if (this.unit === "subgroup") {
      return `subgroupMatrixLoad<${kind}, ${order}>(&${array}, ${offset}, ${unsigned(stride)})`;
    }
    const name = `load_${array}_${kind.toLowerCase()}_${order}`;
    this.#functions.set(name, emulatedLoad(name, kind, array, order));
    return `${name}(${offset}, ${unsigned(stride)})`;
  }
}

function unsigned(stride: number | string): string {
  return typeof stride === "number" ? `${stride}u` : stride;
}

const SUBGROUP_HEAD = `enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
alias half = f16;
alias Left = subgroup_matrix_left<f16, ${MATRIX_SIZE}, ${MATRIX_SIZE}>;
alias Right = subgroup_matrix_right<f16, ${MATRIX_SIZE}, ${MATRIX_SIZE}>;
alias Sum = subgroup_matrix_result<f32, ${MATRIX_SIZE}, ${MATRIX_SIZE}>;
fn to_half(value: f32) -> half { return f16(value); }
fn halves(pair: u32) -> vec2<half> { return bitcast<vec2<f16>>(pair); }
`;

// Row-major, four columns in a vec4f. Each kind is a type of its own, so that a kernel that mixes them up does not compile.
const EMULATED_HEAD = `alias half = f32;
struct Left { rows: array<vec4f, 64> }
struct Right { rows: array<vec4f, 64> }
struct Sum { rows: array<vec4f, 64> }
fn to_half(value: f32) -> half { return unpack2x16float(pack2x16float(vec2f(value, 0.0))).x; }
fn halves(pair: u32) -> vec2<half> { return unpack2x16float(pair); }
`;

const EMULATED_MULTIPLY = `fn multiply(left: Left, right: Right, sum: Sum) -> Sum {
  var a = left;
  var b = right;
  var result = sum;
  for (var row = 0u; row < ${MATRIX_SIZE}u; row++) {
    ${columns((j) => `var sum${j} = result.rows[row * 4u + ${j}u];`)}
    for (var k = 0u; k < ${MATRIX_SIZE}u; k += ${UNROLLED}u) {
      ${
  Array.from({ length: UNROLLED / 4 }, (_, q) =>
    `let a${q} = a.rows[row * 4u + k / 4u + ${q}u];\n` +
    ["x", "y", "z", "w"].map((x, d) =>
      columns((j) => `sum${j} += a${q}.${x} * b.rows[(k + ${4 * q + d}u) * 4u + ${j}u];`)
    ).join("\n")).join("\n")
}
    }
    ${columns((j) => `result.rows[row * 4u + ${j}u] = sum${j};`)}
  }
  return result;
}`;

/** One text for each vec4 of a row. */
function columns(text: (j: number) => string): string {
  return Array.from({ length: MATRIX_SIZE / 4 }, (_, j) => text(j)).join("\n");
}

function emulatedLoad(name: string, kind: MatrixKind, array: string, order: MatrixOrder): string {
  const at = (column: number) =>
    order === "row_major" ? `offset + row * stride + ${column}u` : `offset + row + ${column}u * stride`;
  const vector = (j: number) => `vec4f(${[0, 1, 2, 3].map((i) => `${array}[${at(4 * j + i)}]`).join(", ")})`;
  return `fn ${name}(offset: u32, stride: u32) -> ${kind} {
  var result = ${kind}();
  for (var row = 0u; row < ${MATRIX_SIZE}u; row++) {
    ${columns((j) => `result.rows[row * 4u + ${j}u] = ${vector(j)};`)}
  }
  return result;
}`;
}

/** Each lane stores the two rows of four columns that are its own. */
function emulatedStore(name: string, array: string, order: MatrixOrder): string {
  const at = (i: number) =>
    order === "row_major" ? `offset + row * stride + column + ${i}u` : `offset + row + (column + ${i}u) * stride`;
  return `fn ${name}(offset: u32, value: Sum, stride: u32, lane: u32) {
  var matrix = value;
  for (var number = lane; number < ${MATRIX_SIZE * MATRIX_SIZE / 4}u; number += ${TEAM}u) {
    let row = number / ${MATRIX_SIZE / 4}u;
    let column = number % ${MATRIX_SIZE / 4}u * 4u;
    let four = matrix.rows[number];
    ${["x", "y", "z", "w"].map((x, i) => `${array}[${at(i)}] = four.${x};`).join("\n")}
  }
}`;
}
