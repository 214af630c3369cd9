/**
 * What a run is made of where the user does not say: sized so that it ends in a minute or two on what computes.
 *
 * @module
 */

import type { DeviceKind } from "./run_config.ts";

/** What computes, by speed. */
export type DeviceClass = "reference" | "software" | "gpu";

/** Sizes of a run. */
export interface DefaultSizes {
  /** Preset of the model. */
  readonly model: string;
  /** Tokens of a sequence. */
  readonly seqTokens: number;
  /** Training steps. */
  readonly steps: number;
}

/** Sizes by what computes: plain TypeScript, a software driver on the CPU, or a GPU. */
export const DEFAULT_SIZES: Readonly<Record<DeviceClass, DefaultSizes>> = {
  reference: { model: "tiny", seqTokens: 512, steps: 10 },
  software: { model: "tiny", seqTokens: 2048, steps: 12 },
  gpu: { model: "125m", seqTokens: 8192, steps: 10 },
};

/** Training steps of each run of a set that needs no more. */
export const SET_STEPS = { "compare-strategies": 4, longest: 2 } as const;

/** Seconds without a sign of life after which a rank is given up. */
export const DEFAULT_TIMEOUT_SECONDS = 120;

/** How fast what computes is. */
export function deviceClass(device: DeviceKind, isSoftware: boolean): DeviceClass {
  if (device === "reference") return "reference";
  return isSoftware ? "software" : "gpu";
}
