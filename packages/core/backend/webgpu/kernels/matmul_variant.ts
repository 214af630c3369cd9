/**
 * The variants of the matrix product and which one is taken when: data to be edited after measuring.
 *
 * @module
 */

import type { MatmulDims } from "../../check_shapes.ts";
import { type Dispatcher, WORKSPACE_BYTES } from "../dispatch.ts";
import { TEAM } from "./matrix_unit.ts";

/** Registers and shuffles alone, for software drivers; see `matmul_lanes.ts`. */
export interface LanesVariant {
  readonly kind: "lanes";
  /** Rows of the tile: with `shuffle` a multiple of 4 × lanes, else of 4. */
  readonly tileM: number;
  /** Invocations of a workgroup, each of which owns four columns; with `shuffle` the size of every subgroup. */
  readonly lanes: number;
  /** Whether lanes get the numbers of `a` from one another. */
  readonly shuffle: boolean;
}

/** Slabs in workgroup memory, for GPUs; see `matmul_tiles.ts`. All sizes are multiples of 4. */
export interface TilesVariant {
  readonly kind: "tiles";
  /** Rows of the tile. */
  readonly tileM: number;
  /** Columns of the tile. */
  readonly tileN: number;
  /** k of one slab; a multiple of 4 × teams. */
  readonly tileK: number;
  /** Rows of the block of one invocation. */
  readonly blockM: number;
  /** Columns of the block of one invocation. */
  readonly blockN: number;
  /** Teams of invocations that share the k of a slab. */
  readonly teams: number;
  /** Slabs that workgroup memory holds: with 2, one barrier per slab is enough. */
  readonly buffers: 1 | 2;
}

/** Matrix units, for f16 operands; see `matmul_units.ts`. All sizes are multiples of 16. */
export interface UnitsVariant {
  readonly kind: "units";
  /** Rows of the part of the tile that a team sums up. */
  readonly teamM: number;
  /** Columns of it. */
  readonly teamN: number;
  /** Teams along m. */
  readonly teamsM: number;
  /** Teams along n. */
  readonly teamsN: number;
  /** k of one slab. */
  readonly tileK: number;
}

/** How one matrix product is computed. */
export type MatmulVariant = LanesVariant | TilesVariant | UnitsVariant;

/** A variant and its speed where `out` has many tiles, in any unit that all of one table share. */
export interface RatedVariant<V extends MatmulVariant> {
  readonly variant: V;
  readonly rate: number;
  /** Shares of `rate` that a core reaches with 1, 2, … workgroups side by side, up to as many as it needs. Default: 1. */
  readonly sideBySide?: readonly number[];
}

/** Variants for GPUs, rated in TFLOP/s. The last fits every WebGPU device. */
export const TILES_VARIANTS: readonly RatedVariant<TilesVariant>[] = [
  { variant: tiles([128, 128, 16], [8, 8]), rate: 35 },
  { variant: tiles([64, 64, 32], [8, 4], 2), rate: 24 },
  { variant: tiles([32, 32, 32], [4, 4], 4), rate: 14 },
  { variant: tiles([64, 64, 16], [4, 4]), rate: 20 },
];

/** Variants for matrix units, rated in TFLOP/s. */
export const UNITS_VARIANTS: readonly RatedVariant<UnitsVariant>[] = [
  {
    variant: { kind: "units", teamM: 64, teamN: 64, teamsM: 2, teamsN: 2, tileK: 32 },
    rate: 280,
    sideBySide: [0.58, 0.9, 1],
  },
  { variant: { kind: "units", teamM: 32, teamN: 32, teamsM: 2, teamsN: 2, tileK: 32 }, rate: 110 },
];

/** How a product is computed: by which variant, and in how many parts of k by workgroups of their own. */
export interface MatmulPlan {
  readonly variant: MatmulVariant;
  /** Parts of k whose sums are added up afterwards; 1 where `out` has tiles enough to fill the device. */
  readonly parts: number;
}

/** A row of {@linkcode LANES_TABLE}. */
interface LanesRow {
  readonly tileM: number;
  readonly shuffle: boolean;
  readonly rate: number;
  /** Multiply-adds from which on the speed is worth the time to compile, which is 10 to 20 ms per row of the tile. */
  readonly minProducts: number;
}

/** Variants for software drivers, rated in GFLOP/s of two cores. */
const LANES_TABLE: readonly LanesRow[] = [
  { tileM: 64, shuffle: true, rate: 40, minProducts: 2 ** 24 },
  { tileM: 32, shuffle: true, rate: 34, minProducts: 2 ** 20 },
  { tileM: 16, shuffle: false, rate: 12, minProducts: 2 ** 20 },
  { tileM: 8, shuffle: false, rate: 9, minProducts: 0 },
];

/** Invocations of a workgroup that cannot shuffle. */
const LANES_ALONE = 8;

/** Workgroups that a GPU of the size tuned for runs side by side, one on each of its cores. */
const GPU_CORES = 132;

/** The same for a software driver. */
const SOFTWARE_CORES = 2;

/** Shorthand for a {@linkcode TilesVariant}: tile [m, n, k] and block [m, n]. */
export function tiles(
  [tileM, tileN, tileK]: readonly [number, number, number],
  [blockM, blockN]: readonly [number, number],
  teams = 1,
  buffers: 1 | 2 = 1,
): TilesVariant {
  return { kind: "tiles", tileM, tileN, tileK, blockM, blockN, teams, buffers };
}

/**
 * The variants for software drivers.
 *
 * @param subgroupLanes size of every subgroup; 0 where kernels cannot shuffle
 * @param products multiply-adds of the product
 */
export function lanesVariants(subgroupLanes: number, products = Infinity): RatedVariant<LanesVariant>[] {
  const fits = ({ tileM, shuffle, minProducts }: LanesRow) =>
    products >= minProducts && (!shuffle || subgroupLanes > 1 && tileM % (4 * subgroupLanes) === 0);
  return LANES_TABLE.filter(fits).map(({ tileM, shuffle, rate }) => ({
    variant: { kind: "lanes", tileM, lanes: shuffle ? subgroupLanes : LANES_ALONE, shuffle },
    rate,
  }));
}

/**
 * The plan that should be fastest for a product on a device.
 *
 * @param units whether matrix units can be used
 */
export function choosePlan(dims: MatmulDims, dispatcher: Dispatcher, units = false): MatmulPlan {
  const { limits, isSoftware, subgroupLanes } = dispatcher;
  const bytes = Math.min(WORKSPACE_BYTES, limits.maxBindingBytes);
  const maxParts = Math.floor(bytes / (4 * dims.m * dims.n));
  if (units) return fastest(UNITS_VARIANTS, dims, GPU_CORES, maxParts);
  if (isSoftware) return fastest(lanesVariants(subgroupLanes, dims.m * dims.n * dims.k), dims, SOFTWARE_CORES, 1);
  const fitting = TILES_VARIANTS.filter(({ variant }) =>
    tilesInvocations(variant) <= limits.maxInvocations &&
    tilesWorkgroupBytes(variant) <= limits.maxWorkgroupMemoryBytes
  );
  return fastest(fitting, dims, GPU_CORES, maxParts);
}

/** Memory traffic of a GPU of the size tuned for, in bytes per microsecond, as kernels that add up parts reach it. */
const GPU_BYTES_PER_US = 1.5e6;

/** Time of a further dispatch that waits for the one before, in microseconds. */
const GPU_DISPATCH_US = 5;

function fastest(
  rated: readonly RatedVariant<MatmulVariant>[],
  { m, n, k }: MatmulDims,
  cores: number,
  maxParts: number,
): MatmulPlan {
  let best: MatmulPlan | undefined;
  let bestUs = Infinity;
  for (const { variant, rate, sideBySide } of rated) {
    const { tileM, tileN, tileK } = tileOf(variant);
    const tiles = Math.ceil(m / tileM) * Math.ceil(n / tileN);
    for (let filled = 0; filled <= MAX_FILLED_ROUNDS; filled++) {
      const parts = filled === 0 ? 1 : Math.floor(filled * cores / tiles);
      if (filled > 0 && (parts <= 1 || parts > maxParts || k < parts * MIN_PART_SLABS * tileK)) continue;
      // The core with the most tiles finishes last, however few they are.
      const rounds = roundsOf(Math.ceil(tiles * parts / cores), sideBySide);
      const us = rounds * 2 * tileM * tileN * Math.ceil(k / parts) * cores / (rate * 1e6);
      const addUs = parts > 1 ? GPU_DISPATCH_US + (parts + 1) * m * n * 4 / GPU_BYTES_PER_US : 0;
      if (us + addUs >= bestUs) continue;
      bestUs = us + addUs;
      best = { variant, parts };
    }
  }
  return best!;
}

/** Time of a core for a number of workgroups, in those that one takes where as many as it needs run side by side. */
function roundsOf(workgroups: number, sideBySide: readonly number[] = [1]): number {
  const rest = workgroups % sideBySide.length;
  return rest === 0 ? workgroups : workgroups - rest + rest / sideBySide[rest - 1];
}

/** Most rounds of workgroups on all cores that a product is split to fill. */
const MAX_FILLED_ROUNDS = 3;

/** Slabs of k that a part has at least, so that filling and adding up do not outweigh it. */
const MIN_PART_SLABS = 8;

/** Rows and columns of a tile, and the k that is taken at a time. */
export function tileOf(variant: MatmulVariant): { tileM: number; tileN: number; tileK: number } {
  if (variant.kind === "tiles") return variant;
  if (variant.kind === "units") {
    const { teamM, teamN, teamsM, teamsN, tileK } = variant;
    return { tileM: teamM * teamsM, tileN: teamN * teamsN, tileK };
  }
  return { tileM: variant.tileM, tileN: 4 * variant.lanes, tileK: LANES_DEPTH };
}

/** Steps along k of one iteration of a {@linkcode LanesVariant}. */
export const LANES_DEPTH = 4;

/** Invocations of a workgroup. */
export function tilesInvocations({ tileM, tileN, blockM, blockN, teams }: TilesVariant): number {
  return (tileM / blockM) * (tileN / blockN) * teams;
}

/** Invocations of a workgroup of matrix units. */
export function unitsInvocations({ teamsM, teamsN }: UnitsVariant): number {
  return teamsM * teamsN * TEAM;
}

/** Bytes of workgroup memory. */
export function tilesWorkgroupBytes({ tileM, tileN, tileK, teams, buffers }: TilesVariant): number {
  return 4 * (buffers * tileK * (tileM + tileN) + (teams > 1 ? tileM * tileN : 0));
}

/** A variant in words, for profiles: `128x128x16 8x8`, and for software drivers `64x32 lanes`. */
export function variantName(variant: MatmulVariant): string {
  const { tileM, tileN, tileK } = tileOf(variant);
  if (variant.kind === "lanes") return `${tileM}x${tileN} lanes${variant.shuffle ? "" : " alone"}`;
  if (variant.kind === "units") return `${tileM}x${tileN}x${tileK} units`;
  const { blockM, blockN, teams, buffers } = variant;
  const extras = (teams > 1 ? ` ${teams} teams` : "") + (buffers > 1 ? ` ${buffers} buffers` : "");
  return `${tileM}x${tileN}x${tileK} ${blockM}x${blockN}${extras}`;
}
