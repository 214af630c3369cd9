/**
 * Collectives over sends and receives, the same for every transport. Each is one call on every rank with the same label,
 * which must be unlike that of any other exchange in flight. With one rank there is no traffic.
 *
 * Rings: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", section 3.
 * Barrier: Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization" (dissemination).
 *
 * @module
 */

type Bytes = Uint8Array<ArrayBuffer>;

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

/**
 * Segment `index` of a whole cut into `size` segments as evenly as possible, the longer ones first: 7 in 3 gives [0, 3),
 * [3, 5), [5, 7).
 */
export function segmentBounds(length: number, size: number, index: number): { start: number; end: number } {
  const short = Math.floor(length / size);
  const longer = length % size;
  const start = index * short + Math.min(index, longer);
  return { start, end: start + short + (index < longer ? 1 : 0) };
}

/** Everyone's data on every rank; in round i, each rank passes on what it got in round i − 1. */
export async function allGather(group: Exchange, data: Uint8Array, label: string): Promise<Bytes[]> {
  const { rank, size } = group;
  const gathered = new Array<Bytes>(size);
  gathered[rank] = data.slice() as Bytes;
  for (let round = 0; round < size - 1; round++) {
    const received = await shift(group, gathered[wrap(rank - round, size)], `${label} round ${round}`);
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
  const { rank, size } = group;
  let partial = segment(data, size, wrap(rank - 1, size));
  for (let round = 0; round < size - 1; round++) {
    const received = await shift(group, bytesOf(partial), `${label} round ${round}`);
    const own = segment(data, size, wrap(rank - round - 2, size));
    partial = asFloats(received, own.length);
    for (let index = 0; index < own.length; index++) partial[index] += own[index];
  }
  return size === 1 ? data.slice() : partial as Float32Array<ArrayBuffer>;
}

/** The sum in place: every segment is summed on one rank and copied to all, so that it is the same everywhere. */
export async function allReduce(group: Exchange, data: Float32Array, label: string): Promise<void> {
  const { rank, size } = group;
  if (size === 1) return;
  let segmentBytes = bytesOf(await reduceScatter(group, data, `${label} reduce`));
  segment(data, size, rank).set(asFloats(segmentBytes, segment(data, size, rank).length));
  for (let round = 0; round < size - 1; round++) {
    segmentBytes = await shift(group, segmentBytes, `${label} gather round ${round}`);
    const into = segment(data, size, wrap(rank - round - 1, size));
    into.set(asFloats(segmentBytes, into.length));
  }
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
  const { start, end } = segmentBounds(data.length, size, index);
  return data.subarray(start, end);
}

function asFloats(bytes: Bytes, length: number): Float32Array<ArrayBuffer> {
  if (bytes.length !== 4 * length) {
    throw new RangeError(
      `Cannot reduce a segment of ${bytes.length} bytes into one of ${4 * length}: the ranks must pass equal lengths`,
    );
  }
  return new Float32Array(bytes.buffer);
}

function bytesOf<Buffer extends ArrayBufferLike>(data: Float32Array<Buffer>): Uint8Array<Buffer> {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function copyOf(data: Uint8Array | undefined): Bytes {
  if (!data) throw new TypeError("Cannot broadcast from this rank without data: it is the root");
  return data.slice() as Bytes;
}

function wrap(rank: number, size: number): number {
  return ((rank % size) + size) % size;
}
