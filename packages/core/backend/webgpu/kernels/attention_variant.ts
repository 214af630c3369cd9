/**
 * The variants of the attention kernels and which one is taken when: data to be edited after measuring.
 *
 * @module
 */

import type { Dispatcher } from "../dispatch.ts";
import type { ForwardVariant } from "./attention_forward_variant.ts";
import type { MatrixVariant } from "./attention_matrix_variant.ts";
import { BACKWARD_OPERANDS, piecesOf } from "./attention_wgsl.ts";

/** Rows kept in registers of lanes, for software drivers; see `attention_lanes.ts`. */
export interface LaneVariant {
  readonly kind: "lanes";
  /** Invocations of a workgroup; with `shuffle`, the size of every subgroup. */
  readonly lanes: number;
  /** Rows that a lane owns; more share each load, at the price of longer code. */
  readonly rows: number;
  /** Rows of the other side per turn of the loop, at most `lanes`. */
  readonly block: number;
  /** Whether lanes hand round what they load. */
  readonly shuffle: boolean;
}

/** Tiles in workgroup memory, for GPUs; see `attention_tiles.ts`. */
export interface TileVariant {
  readonly kind: "tiles";
  /** Rows that a workgroup owns, a multiple of 4 · `rowsPerInvocation`. */
  readonly rows: number;
  /** Rows of the other side per tile, a multiple of 16 and at least 4 · `rowsPerInvocation`. */
  readonly columns: number;
  /** Rows of a tile that an invocation holds. */
  readonly rowsPerInvocation: number;
  /** Pieces of four elements of every row that are staged at a time, a multiple of 4 of which `columns` is one. */
  readonly chunk: number;
}

/** What follows from a variant for one head dim. */
export interface TileShape extends TileVariant {
  /** Pieces of a row. */
  readonly pieces: number;
  /** Invocations side by side. */
  readonly xCount: number;
  /** Invocations one above the other. */
  readonly yCount: number;
  /** Invocations of a workgroup. */
  readonly invocations: number;
  /** Pieces of a sum that an invocation holds, per row. */
  readonly sums: number;
  /** Columns staged at a time by `tileAccumulate`, a multiple of `chunk`. */
  readonly staged: number;
  /** Rows of the stage. */
  readonly stageRows: number;
  /** Pieces of a row of the stage. */
  readonly stageWidth: number;
  /** Pieces of a row of the weights. */
  readonly weightWidth: number;
  /** Bytes of workgroup memory, with two numbers per row and column and one per row and x. */
  readonly memoryBytes: number;
}

/** Works out the sizes of a variant. */
export function tileShape(variant: TileVariant, headDim: number): TileShape {
  const { rows, columns, rowsPerInvocation, chunk } = variant;
  const pieces = piecesOf(headDim);
  const xCount = columns / 4;
  const yCount = rows / rowsPerInvocation;
  const sums = Math.ceil(pieces / xCount);
  const stageRows = Math.max(rows + columns, xCount * sums);
  let staged = chunk;
  while (columns % (2 * staged) === 0 && 2 * staged / chunk * xCount * sums <= stageRows) staged *= 2;
  const stageWidth = chunk + 1;
  const weightWidth = xCount | 1;
  const numbers = rows * (xCount + 1) + rows + 2 * columns + 4;
  return {
    ...variant,
    pieces,
    xCount,
    yCount,
    invocations: xCount * yCount,
    sums,
    staged,
    stageRows,
    stageWidth,
    weightWidth,
    memoryBytes: (stageRows * stageWidth + rows * weightWidth) * 16 + numbers * 4,
  };
}

/** How an attention kernel is computed. */
export type AttentionVariant = LaneVariant | TileVariant;

/** How any attention kernel is computed, those on matrix units included. */
export type LaunchVariant = AttentionVariant | ForwardVariant | MatrixVariant;

/** The attention kernels: the forward, the gradient of the queries, and the gradients of keys and values. */
export type AttentionKernel = "attention" | "attention_dq" | "attention_dkv";

/** A tile variant and the head dims it is for. */
interface TileChoice {
  readonly maxHeadDim: number;
  readonly variant: TileVariant;
}

/** Variants for GPUs: the first that is meant for the head dim and fits the device is taken; the last fits all. */
export const TILE_VARIANTS: Readonly<Record<AttentionKernel, readonly TileChoice[]>> = {
  attention: [
    { maxHeadDim: Infinity, variant: tiles(64, 64, 4, 8) },
    { maxHeadDim: Infinity, variant: tiles(32, 32, 4, 4) },
    { maxHeadDim: Infinity, variant: tiles(16, 16, 4, 4) },
  ],
  attention_dq: [
    { maxHeadDim: Infinity, variant: tiles(64, 64, 4, 8) },
    { maxHeadDim: Infinity, variant: tiles(32, 32, 4, 4) },
    { maxHeadDim: Infinity, variant: tiles(16, 16, 4, 4) },
  ],
  attention_dkv: [
    { maxHeadDim: Infinity, variant: tiles(64, 64, 4, 8) },
    { maxHeadDim: Infinity, variant: tiles(32, 32, 4, 4) },
    { maxHeadDim: Infinity, variant: tiles(16, 16, 4, 4) },
  ],
};

/** Shorthand for a {@linkcode TileVariant}. */
export function tiles(rows: number, columns: number, rowsPerInvocation: number, chunk: number): TileVariant {
  return { kind: "tiles", rows, columns, rowsPerInvocation, chunk };
}

/** Shuffles and multiply-adds that a lane spends per element of a streamed row: the first once, the second per own row. */
const LANE_WORK: Readonly<Record<AttentionKernel, { readonly shuffles: number; readonly products: number }>> = {
  attention: { shuffles: 2, products: 2 },
  attention_dq: { shuffles: 3, products: 3 },
  attention_dkv: { shuffles: 4, products: 4 },
};

/** Rows that a lane may own, and the instructions for one streamed row up to which it pays and compiles in seconds. */
const LANE_ROWS: readonly { readonly rows: number; readonly maxInstructions: number }[] = [
  { rows: 4, maxInstructions: 900 },
  { rows: 2, maxInstructions: 1300 },
  { rows: 1, maxInstructions: Infinity },
];

/** Instructions of one turn of the loop that fit the instruction cache: 32 KiB hold some 3,500. */
const LANE_TURN_INSTRUCTIONS = 2600;

/**
 * The variant for software drivers: as many own rows and as long turns as the instructions allow.
 *
 * @param subgroupLanes size of every subgroup; 0 where kernels cannot shuffle
 */
export function lanes(kernel: AttentionKernel, headDim: number, subgroupLanes: number): LaneVariant {
  const { shuffles, products } = LANE_WORK[kernel];
  const shuffle = subgroupLanes > 1;
  const lanes = shuffle ? subgroupLanes : 8;
  const instructions = (rows: number) => piecesOf(headDim) * 4 * (shuffles + products * 2 * rows);
  const { rows } = LANE_ROWS.find(({ rows, maxInstructions }) => instructions(rows) <= maxInstructions)!;
  const block = [4, 2].find((count) => count <= lanes && instructions(rows) * count <= LANE_TURN_INSTRUCTIONS) ?? 1;
  return { kind: "lanes", lanes, rows, block, shuffle };
}

/** What of a device the choice of a variant depends on. */
export type VariantDevice = Pick<Dispatcher, "limits" | "isSoftware" | "subgroupLanes">;

/**
 * The variant that should be fastest on a device.
 *
 * @throws {RangeError} when the workgroups of none fit the device
 */
export function chooseAttentionVariant(
  kernel: AttentionKernel,
  headDim: number,
  { limits, isSoftware, subgroupLanes }: VariantDevice,
): AttentionVariant {
  // The lane kernels are not split by terms.
  const hasBindings = limits.maxStorageBuffers >= BACKWARD_OPERANDS.keys.length;
  if (isSoftware && hasBindings) return lanes(kernel, headDim, subgroupLanes);
  const fitting = TILE_VARIANTS[kernel].filter(({ variant }) => {
    const { invocations, memoryBytes } = tileShape(variant, headDim);
    return invocations <= limits.maxInvocations && memoryBytes <= limits.maxWorkgroupMemoryBytes;
  });
  const choice = fitting.find(({ maxHeadDim }) => headDim <= maxHeadDim);
  if (!choice) {
    throw new RangeError(
      `Cannot run ${kernel} with head dim ${headDim} in ${limits.maxWorkgroupMemoryBytes} bytes of workgroup memory ` +
        `and ${limits.maxInvocations} invocations: no variant fits`,
    );
  }
  return choice.variant;
}

/** Rows that a workgroup owns. */
export function ownedRows(variant: LaunchVariant): number {
  if (variant.kind === "forward_matrices") return variant.rows;
  if (variant.kind === "matrices") return variant.rows * variant.teams;
  return variant.kind === "tiles" ? variant.rows : variant.rows * variant.lanes;
}

/**
 * Rows of the other side that the workgroups of one dispatch may walk over, so that no invocation's loops take more
 * turns than a driver allows; a multiple of what they take at a time.
 *
 * @param passes times that the same rows are walked over, such as heads of a group
 * @param searches searches of a bound that each row takes
 */
export function maxStreamedRows(
  variant: LaunchVariant,
  headDim: number,
  { maxLoopTurns, passes, searches }: { maxLoopTurns: number; passes: number; searches: number },
): number {
  // Drivers with such limits only test matrices, on few rows.
  if (maxLoopTurns === Infinity || variant.kind === "forward_matrices" || variant.kind === "matrices") return Infinity;
  const [own, step] = variant.kind === "tiles"
    ? [variant.rowsPerInvocation, variant.columns]
    : [variant.rows, variant.block];
  // Searches for bounds take a turn per bit; each pass begins with up to one step that is half outside.
  const turns = (maxLoopTurns - searches * (own + 3) * 33) / passes - 2 * stepTurns(variant, headDim);
  return Math.max(1, Math.floor(turns / stepTurns(variant, headDim))) * step;
}

/** Turns of all loops in one step of the outermost, the last turns in which loops find their end included. */
function stepTurns(variant: AttentionVariant, headDim: number): number {
  if (variant.kind === "lanes") return 1;
  const { pieces, chunk, columns, staged, xCount } = tileShape(variant, headDim);
  const products = 2 * (Math.ceil(pieces / chunk) + 1);
  const sums = 2 * (columns / staged * (staged / chunk + 2) + 1);
  return 1 + products + sums + xCount;
}

/** A number that tells apart variants of one name, below 2¹². */
export function variantNumber(variant: LaunchVariant): number {
  if (variant.kind === "lanes") return variant.lanes;
  if (variant.kind === "tiles") return 64 * variant.rowsPerInvocation + variant.chunk;
  const emulated = Number(variant.unit === "emulated");
  if (variant.kind === "forward_matrices") return 2 * variant.teams + emulated;
  return 4 * variant.tile + 2 * Number(variant.views) + emulated;
}

/** Name of a variant, for the profile. */
export function variantName(variant: LaunchVariant): string {
  if (variant.kind === "forward_matrices") return `matrices ${variant.rows}x${variant.columns} by ${variant.step}`;
  if (variant.kind === "matrices") return `matrices ${variant.rows}x${variant.teams} by ${variant.step}`;
  if (variant.kind === "tiles") return `${variant.rows}x${variant.columns}`;
  return `lanes ${variant.rows}x${variant.block}${variant.shuffle ? "" : " unshuffled"}`;
}
