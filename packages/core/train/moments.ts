/**
 * Where AdamW's moments are: on the device, or on the host, from where they come for their update piece by piece.
 *
 * @module
 */

import { type Backend, zeros } from "../backend/backend.ts";
import { hostWords } from "../memory/host_words.ts";
import type { OwnElements } from "../sharding/model_states.ts";
import { Scope } from "../tensor/scope.ts";
import { readHalves, writeHalves } from "../tensor/half.ts";
import { type DType, ELEMENT_BYTES, elementBytes } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Segment } from "../transport/collectives.ts";

/** Elements of each moment that are on the device at a time, where they are kept on the host. */
export const MOMENT_PIECE_ELEMENTS = 16 * 2 ** 20;

/** Elements of a tensor that are read from the device at once, so that the host sees little of it twice. */
const READ_PIECE_ELEMENTS = 16 * 2 ** 20;

/** Names of the moments: the running mean of the gradient, and of its square. */
const KINDS = ["m", "v"] as const;

/** The first or the second moment. */
export type MomentKind = typeof KINDS[number];

/** Some elements of a parameter with what an update needs of them, flat; the tensors stay with the moments. */
export interface UpdatedPiece extends Readonly<Record<MomentKind, Tensor>> {
  /** Elements of the weight. */
  readonly value: Tensor;
  /** Elements of its gradient. */
  readonly gradient: Tensor;
}

/** First and second moments of the elements that a rank updates; zeros at first. */
export interface Moments {
  /** Bytes on the host. */
  readonly hostBytes: number;
  /** The pieces in which a parameter is updated, in order. */
  pieces(of: OwnElements): readonly Segment[];
  /** Hands the update of a piece to the device. */
  update(of: OwnElements, piece: Segment, run: (piece: UpdatedPiece) => void): void;
  /** Waits until no more than so many pieces are on their way back from their update. */
  settle(pieces: number): Promise<void>;
  /** Copies a moment of a parameter to an array of as many elements; between updates. */
  read(of: OwnElements, kind: MomentKind, into: Float32Array): Promise<void>;
  /** Replaces a moment of a parameter; between updates. */
  write(of: OwnElements, kind: MomentKind, values: Float32Array): void;
  /** Frees them. */
  free(): void;
}

/** Moments on the device. */
export function createDeviceMoments(backend: Backend, updated: readonly OwnElements[], dtype: DType): Moments {
  const create = ({ value }: OwnElements) => zeros(backend, value.shape, "optimizer", dtype);
  const all = new Map(updated.map((own) => [own.name, { m: create(own), v: create(own) }]));

  return {
    hostBytes: 0,
    pieces: ({ value }) => [{ start: 0, end: value.size }],
    update: ({ name, value, gradient }, _piece, run) => run({ value, gradient, ...all.get(name)! }),
    settle: () => Promise.resolve(),
    read: ({ name }, kind, into) => readInPieces(backend, all.get(name)![kind], into),
    write: ({ name }, kind, values) => backend.write(all.get(name)![kind], values),
    free: () => all.forEach(({ m, v }) => [m, v].forEach((tensor) => tensor.free())),
  };
}

/** Options of {@linkcode createHostMoments}. */
export interface HostMomentsOptions {
  /** Most elements of a piece, even. */
  readonly pieceElements?: number;
}

/**
 * Moments on the host. A piece is written to the device, updated, and read back; as the device does this in the order in
 * which it was handed over, one piece after another uses the same device memory, and the host copies a piece while the
 * device is busy with what was handed over before.
 */
export function createHostMoments(
  backend: Backend,
  updated: readonly OwnElements[],
  dtype: DType,
  { pieceElements = MOMENT_PIECE_ELEMENTS }: HostMomentsOptions = {},
): Moments {
  const perWord = ELEMENT_BYTES / elementBytes(dtype);
  const create = ({ value }: OwnElements) => hostWords(value.size / perWord, "moments");
  const all = new Map(updated.map((own) => [own.name, { m: create(own), v: create(own) }]));
  const reading: (() => Promise<unknown>)[] = [];

  return {
    hostBytes: [...all.values()].reduce((sum, { m, v }) => sum + m.byteLength + v.byteLength, 0),

    pieces: ({ value: { size } }) =>
      Array.from({ length: Math.ceil(size / pieceElements) }, (_, i) => ({
        start: i * pieceElements,
        end: Math.min(size, (i + 1) * pieceElements),
      })),

    update(of, { start, end }, run) {
      using scope = new Scope();
      const moments = all.get(of.name)!;
      const words = KINDS.map((kind) => moments[kind].subarray(start / perWord, end / perWord));
      const [m, v] = KINDS.map(() => scope.own(backend.empty([end - start], "optimizer", dtype)));
      const onDevice = [m, v].map((tensor) => scope.own(tensor.words()));
      onDevice.forEach((tensor, i) => backend.write(tensor, words[i]));
      const value = scope.own(of.value.elements(start, end));
      const gradient = scope.own(of.gradient.elements(start, end));
      run({ value, gradient, m, v });
      reading.push(backend.readLater(onDevice, words));
    },

    async settle(pieces) {
      const due = reading.splice(0, Math.max(0, reading.length - pieces));
      await Promise.all(due.map((take) => take())); // so that many small ones are waited for together
    },

    read({ name }, kind, into) {
      const words = all.get(name)![kind];
      if (dtype === "f32") into.set(words);
      else readHalves(bitsOf(words), into, dtype as "f16" | "bf16");
      return Promise.resolve();
    },

    write({ name }, kind, values) {
      const words = all.get(name)![kind];
      if (dtype === "f32") words.set(values);
      else writeHalves(values, bitsOf(words), dtype as "f16" | "bf16");
    },

    free: () => all.clear(),
  };
}

/** Reads a flat tensor so that little of it is on its way at a time: the device copies to memory that the host sees first. */
export async function readInPieces(backend: Backend, tensor: Tensor, into: Float32Array): Promise<void> {
  for (let start = 0; start < tensor.size; start += READ_PIECE_ELEMENTS) {
    const end = Math.min(tensor.size, start + READ_PIECE_ELEMENTS);
    using piece = tensor.elements(start, end);
    await backend.readAll([piece], [into.subarray(start, end)]);
  }
}

function bitsOf({ buffer, byteOffset, byteLength }: Float32Array): Uint16Array {
  return new Uint16Array(buffer, byteOffset, byteLength / 2);
}
