/**
 * WGSL for products of small matrices by a GPU's matrix units: `Left` [16, 16] · `Right` [16, 16] + `Sum` [16, 16], with
 * operands in f16 and sums in f32.
 *
 * The unit `subgroup` uses subgroup matrices (Dawn's `chromium_experimental_subgroup_matrix`; tensor cores on NVIDIA).
 * `emulated` is the same in plain WGSL, so that the kernels built on matrices are tested on every device: there, each
 * invocation holds what its own eight sums need, tiles of `half` are f32, and nothing depends on the size of real
 * subgroups.
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
    return `${name}(${offset}, ${unsigned(stride)}, lane)`;
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

// A lane's sums are four columns of row lane / 4 and of the row eight below. It holds these two rows of `Left`, k by k in
// vec4s, one row after the other, and these columns of `Right`.
const EMULATED_HEAD = `alias half = f32;
struct Left { rows: array<vec4f, 8> }
struct Right { columns: array<vec4f, 16> }
struct Sum { low: vec4f, high: vec4f }
fn to_half(value: f32) -> half { return unpack2x16float(pack2x16float(vec2f(value, 0.0))).x; }
fn halves(pair: u32) -> vec2<half> { return unpack2x16float(pair); }
`;

const XYZW = ["x", "y", "z", "w"];

const EMULATED_MULTIPLY = `fn multiply(left: Left, right: Right, sum: Sum) -> Sum {
  var result = sum;
  ${
  lines(MATRIX_SIZE, (k) => {
    const [vector, x] = [Math.floor(k / 4), XYZW[k % 4]];
    return `result.low += left.rows[${vector}].${x} * right.columns[${k}];
  result.high += left.rows[${vector + 4}].${x} * right.columns[${k}];`;
  })
}
  return result;
}`;

function lines(count: number, text: (i: number) => string, separator = "\n  "): string {
  return Array.from({ length: count }, (_, i) => text(i)).join(separator);
}

/** WGSL of the element of an array that is at a row and a column of the matrix. */
function element(array: string, order: MatrixOrder, row: string, column: string): string {
  return order === "row_major"
    ? `${array}[offset + (${row}) * stride + ${column}]`
    : `${array}[offset + ${row} + (${column}) * stride]`;
}

function emulatedLoad(name: string, kind: MatrixKind, array: string, order: MatrixOrder): string {
  const four = (row: string, column: string) =>
    `vec4f(${lines(4, (i) => element(array, order, row, `${column} + ${i}u`), ", ")})`;
  const rows = ["row", "row + 8u"];
  const body = kind === "Left"
    ? `return Left(array<vec4f, 8>(${rows.flatMap((row) => [0, 4, 8, 12].map((k) => four(row, `${k}u`))).join(", ")}));`
    : kind === "Right"
    ? `return Right(array<vec4f, 16>(${lines(MATRIX_SIZE, (k) => four(`${k}u`, "column"), ", ")}));`
    : `return Sum(${rows.map((row) => four(row, "column")).join(", ")});`;
  return `fn ${name}(offset: u32, stride: u32, lane: u32) -> ${kind} {
  let row = lane / 4u;
  let column = lane % 4u * 4u;
  ${body}
}`;
}

function emulatedStore(name: string, array: string, order: MatrixOrder): string {
  const store = (row: string, value: string) =>
    lines(4, (i) => `${element(array, order, row, `column + ${i}u`)} = ${value}.${XYZW[i]};`);
  return `fn ${name}(offset: u32, value: Sum, stride: u32, lane: u32) {
  let row = lane / 4u;
  let column = lane % 4u * 4u;
  ${store("row", "value.low")}
  ${store("row + 8u", "value.high")}
}`;
}
