/**
 * Collectives over sends and receives, the same for every transport. Each is one call on every rank with the same label,
 * which must be unlike that of any other exchange in flight. With one rank there is no traffic.
 *
 * Rings: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", section 3.
 * Barrier: Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization" (dissemination).
 *
 * @module
 */
import { release, writable } from "./release.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/**
 * Floats of a whole piece of a segment that is reduced. A piece is a message of one frame, so that neither end copies
 * it, and short enough to lie in the processor's cache while it is received, summed and sent on.
 */
export const PIECE_FLOATS = 256 * 1024;
/** Floats added in one call. */
const BLOCK_FLOATS = 4096;

/** What a collective needs of a process group. */
export interface Exchange {
  /** This rank. */
  readonly rank: number;
  /** Number of ranks R. */
  readonly size: number;
  /** Sends one message; resolves once the bytes are taken. */
  send(to: number, data: Uint8Array, label: string): Promise<void>;
  /** Receives the next message under the label. */
  recv(from: number, label: string): Promise<Bytes>;
}

/** Elements `start` to `end` (exclusive) of a whole. */
export interface Segment {
  /** First element. */
  readonly start: number;
  /** Last element plus one. */
  readonly end: number;
}

/**
 * Segment `index` of a whole cut into `size` segments as evenly as possible, the longer ones first: 7 in 3 gives [0, 3),
 * [3, 5), [5, 7).
 */
export function segmentBounds(length: number, size: number, index: number): Segment {
  const short = Math.floor(length / size);
  const longer = length % size;
  const start = index * short + Math.min(index, longer);
  return { start, end: start + short + (index < longer ? 1 : 0) };
}

/**
 * As {@linkcode segmentBounds}, but in pairs of elements where their number is even: of numbers of 16 bits, two of which
 * lie in a word, a segment is then whole words.
 */
export function pairedSegment(length: number, size: number, index: number): Segment {
  if (length % 2 !== 0) return segmentBounds(length, size, index);
  const { start, end } = segmentBounds(length / 2, size, index);
  return { start: 2 * start, end: 2 * end };
}

/** Everyone's data on every rank; in round i, each rank passes on what it got in round i − 1. */
export async function allGather(group: Exchange, data: Uint8Array, label: string): Promise<Bytes[]> {
  const { rank, size } = group;
  const gathered = new Array<Bytes>(size);
  gathered[rank] = data.slice() as Bytes;
  for (let round = 0; round < size - 1; round++) {
    const passed = round === 0 ? data : gathered[wrap(rank - round, size)];
    const received = await shift(group, passed, `${label} round ${round}`);
    gathered[wrap(rank - round - 1, size)] = received;
  }
  return gathered;
}

/** This rank's segment of the sum; each partial sum travels the ring once, ending where it belongs. */
export async function reduceScatter(
  group: Exchange,
  data: Float32Array,
  label: string,
): Promise<Float32Array<ArrayBuffer>> {
  if (group.size === 1) return data.slice();
  const sum = new Float32Array(segment(data, group.size, group.rank).length);
  const sending = new Sending();
  await ringReduce(group, { data, label, sum, sending });
  await sending.done;
  return sum;
}

/** The sum in place: every segment is summed on one rank and copied to all, so that it is the same everywhere. */
export async function allReduce(group: Exchange, data: Float32Array, label: string): Promise<void> {
  const { rank, size } = group;
  if (size === 1) return;
  const sending = new Sending();
  const sendRound = (piece: Float32Array, round: number) => sendPiece(group, piece, `${label} gather round ${round}`);
  const sum = segment(data, size, rank);
  const summed = (piece: Float32Array) => sending.add(sendRound(piece, 0));
  await ringReduce(group, { data, label: `${label} reduce`, sum, sending, summed });
  for (let round = 0; round < size - 1; round++) {
    const into = segment(data, size, wrap(rank - round - 1, size));
    await receivePieces(group, into.length, `${label} gather round ${round}`, (piece, start) => {
      into.set(piece, start);
      if (round < size - 2) sending.addAndRelease(sendRound(piece, round + 1), piece);
      else release(piece);
    });
  }
  await sending.done;
}

/** Every rank's part for every rank, each pair exchanging directly, all pairs at once. */
export async function allToAll(group: Exchange, parts: readonly Uint8Array[], label: string): Promise<Bytes[]> {
  const { rank, size } = group;
  if (parts.length !== size) {
    throw new RangeError(`Cannot exchange ${parts.length} parts among ${size} ranks: wanted one each`);
  }
  const others = Array.from({ length: size - 1 }, (_, index) => wrap(rank + index + 1, size));
  const received = new Array<Bytes>(size);
  received[rank] = parts[rank].slice() as Bytes;
  await Promise.all([
    ...others.map((other) => group.send(other, parts[other], label)),
    ...others.map(async (other) => received[other] = await group.recv(other, label)),
  ]);
  return received;
}

/** The root's data on every rank, along a binomial tree. */
export async function broadcast(
  group: Exchange,
  data: Uint8Array | undefined,
  root: number,
  label: string,
): Promise<Bytes> {
  const { rank, size } = group;
  if (!Number.isInteger(root) || root < 0 || root >= size) {
    throw new RangeError(`Cannot broadcast from rank ${root} of ${size}: wanted 0 to ${size - 1}`);
  }
  const place = wrap(rank - root, size);
  let reach = 1;
  while (reach < size && (place & reach) === 0) reach *= 2;
  const received = place === 0 ? copyOf(data) : await group.recv(wrap(rank - reach, size), label);
  const children: number[] = [];
  for (let step = reach / 2; step >= 1; step /= 2) {
    if (place + step < size) children.push(wrap(rank + step, size));
  }
  await Promise.all(children.map((child) => group.send(child, received, label)));
  return received;
}

/** Resolves once every rank has called; after round i, a rank has heard of the 2^(i+1) ranks before it. */
export async function barrier(group: Exchange, label: string): Promise<void> {
  const { rank, size } = group;
  const nothing = new Uint8Array(0);
  for (let distance = 1; distance < size; distance *= 2) {
    await Promise.all([
      group.send(wrap(rank + distance, size), nothing, `${label} distance ${distance}`),
      group.recv(wrap(rank - distance, size), `${label} distance ${distance}`),
    ]);
  }
}

/** What a ring reduction works on. */
interface Reduction {
  /** Summed over the ranks; left as it is, but for `sum`. */
  readonly data: Float32Array;
  readonly label: string;
  /** Where this rank's segment of the sum goes, which may be that segment of `data`. */
  readonly sum: Float32Array;
  /** What is still being sent; the caller waits for it. */
  readonly sending: Sending;
  /** Called with each piece of `sum`, in order, once it is complete. */
  readonly summed?: (piece: Float32Array) => void;
}

/**
 * Partial sums of all segments but the own one go round, piece by piece: a piece is passed on as soon as this rank has
 * added its part, while those behind it are still on their way.
 */
async function ringReduce(group: Exchange, { data, label, sum, sending, summed }: Reduction): Promise<void> {
  const { rank, size } = group;
  for (const piece of pieces(segment(data, size, wrap(rank - 1, size)))) {
    sending.add(sendPiece(group, piece, `${label} round 0`));
  }
  for (let round = 0; round < size - 1; round++) {
    const own = segment(data, size, wrap(rank - round - 2, size));
    await receivePieces(group, own.length, `${label} round ${round}`, (partial, start) => {
      const end = start + partial.length;
      if (round < size - 2) {
        const piece = writable(partial);
        addFloats(piece, own.subarray(start, end), piece);
        sending.addAndRelease(sendPiece(group, piece, `${label} round ${round + 1}`), piece);
      } else {
        const piece = sum.subarray(start, end);
        addFloats(partial, own.subarray(start, end), piece);
        release(partial);
        summed?.(piece);
      }
    });
  }
}

/** Messages being sent, in order, while the collective goes on. */
class Sending {
  readonly #sends: Promise<void>[] = [];

  /** Resolves once all are taken. */
  get done(): Promise<unknown> {
    return Promise.all(this.#sends);
  }

  add(send: Promise<void>): void {
    // Its failure is that of the group, which the receiver meets as well, perhaps before anyone waits for `done`.
    send.catch(() => {});
    this.#sends.push(send);
  }

  addAndRelease(send: Promise<void>, piece: Float32Array<ArrayBuffer>): void {
    this.add(send.then(() => release(piece)));
  }
}

function sendPiece(group: Exchange, piece: Float32Array, label: string): Promise<void> {
  return group.send(wrap(group.rank + 1, group.size), bytesOf(piece), label);
}

/** Receives a segment of `length` floats from the rank before, piece by piece. */
async function receivePieces(
  group: Exchange,
  length: number,
  label: string,
  take: (piece: Float32Array<ArrayBuffer>, start: number) => void,
): Promise<void> {
  const from = wrap(group.rank - 1, group.size);
  for (let start = 0; start <= length; start += PIECE_FLOATS) {
    const piece = await group.recv(from, label);
    take(asFloats(piece, Math.min(PIECE_FLOATS, length - start)), start);
  }
}

/**
 * The pieces of a segment, all of `PIECE_FLOATS` but the last, which is shorter and may be empty: so ranks that disagree
 * on the length find a piece of another length than they want.
 */
function* pieces(segment: Float32Array): Generator<Float32Array> {
  for (let start = 0; start <= segment.length; start += PIECE_FLOATS) {
    yield segment.subarray(start, start + PIECE_FLOATS);
  }
}

/** `into` becomes the sum; it may be one of the terms. */
export function addFloats(left: Float32Array, right: Float32Array, into: Float32Array): void {
  for (let start = 0; start < into.length; start += BLOCK_FLOATS) {
    addBlock(left, right, into, start, Math.min(start + BLOCK_FLOATS, into.length));
  }
}

/** A function of its own, called often, since that is what makes a compiler spend time on it. */
function addBlock(left: Float32Array, right: Float32Array, into: Float32Array, start: number, end: number): void {
  for (let index = start; index < end; index++) into[index] = left[index] + right[index];
}

/** One round of a ring: to the next rank, from the one before. */
async function shift(group: Exchange, data: Uint8Array, label: string): Promise<Bytes> {
  const { rank, size } = group;
  const [received] = await Promise.all([
    group.recv(wrap(rank - 1, size), label),
    group.send(wrap(rank + 1, size), data, label),
  ]);
  return received;
}

function segment(data: Float32Array, size: number, index: number): Float32Array {
  const { start, end } = pairedSegment(data.length, size, index);
  return data.subarray(start, end);
}

function asFloats(bytes: Bytes, length: number): Float32Array<ArrayBuffer> {
  if (bytes.length !== 4 * length) {
    throw new RangeError(
      `Cannot reduce ${bytes.length} bytes into ${4 * length}: the ranks must pass equal lengths`,
    );
  }
  return floatsOf(bytes);
}

/** The floats of a whole message, where they lie. */
export function floatsOf({ buffer }: Bytes): Float32Array<ArrayBuffer> {
  return new Float32Array(buffer);
}

/** The bytes of floats, where they lie. */
export function bytesOf<Buffer extends ArrayBufferLike>(data: Float32Array<Buffer>): Uint8Array<Buffer> {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function copyOf(data: Uint8Array | undefined): Bytes {
  if (!data) throw new TypeError("Cannot broadcast from this rank without data: it is the root");
  return data.slice() as Bytes;
}

function wrap(rank: number, size: number): number {
  return ((rank % size) + size) % size;
}
