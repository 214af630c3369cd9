import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  type Backend,
  createLoopbackGroups,
  createReferenceBackend,
  PeerError,
  type ProcessGroup,
  SharedMemory,
  type Tensor,
} from "@mst/core";
import {
  allGatherWeights,
  allReduceGradients,
  reduceScatterGradients,
} from "../../packages/core/strategy/weight_exchange.ts";
import { pairedSegment } from "../../packages/core/transport/collectives.ts";

const MI = 2 ** 20;
/** Six buckets of 8 Mi floats: of several tensors, of one that is larger than a bucket, of an empty one among others. */
const SIZES = [3 * MI, 7, 4 * MI + 1, 2 * MI, 9 * MI, 0, 5 * MI, 6 * MI + 3, 7 * MI];

/** What a rank has in an element before the exchange; sums over two ranks are exact. */
const valueOf = (rank: number, tensor: number) => (rank + 1) * (tensor + 1);

/** Runs an exchange on two ranks, and hands tensors before and after to the check. */
async function exchange(
  run: (backend: Backend, group: ProcessGroup, tensors: readonly Tensor[]) => Promise<void>,
  check: (values: Float32Array, tensor: number, rank: number) => void,
): Promise<void> {
  await Promise.all(
    createLoopbackGroups(2).map(async (group) => {
      await using backend = createReferenceBackend();
      const tensors = SIZES.map((size) => backend.empty([size], "gradients"));
      tensors.forEach((tensor, i) => backend.ops.fill(tensor, valueOf(group.rank, i)));
      await run(backend, group, tensors);
      for (const [i, tensor] of tensors.entries()) {
        check(await backend.read(tensor), i, group.rank);
        tensor.free();
      }
      assertEquals(backend.ledger.liveBytes(), 0);
      await group.close();
    }),
  );
}

Deno.test("gradients of many buckets become their sums over the ranks", () =>
  exchange(allReduceGradients, (values, i) => {
    assertEquals(values.length, SIZES[i]);
    assert(values.every((value) => value === valueOf(0, i) + valueOf(1, i)), `tensor ${i}`);
  }));

Deno.test("of gradients of many buckets a rank gets its segments of the sums", () =>
  exchange(reduceScatterGradients, (values, i, rank) => {
    const { start, end } = pairedSegment(values.length, 2, rank);
    const sum = valueOf(0, i) + valueOf(1, i);
    assert(values.every((value, k) => value === (k >= start && k < end ? sum : valueOf(rank, i))), `tensor ${i}`);
  }));

Deno.test("of weights of many buckets every rank gets the segments of the others", () =>
  exchange(allGatherWeights, (values, i) => {
    const { end } = pairedSegment(values.length, 2, 0);
    assert(values.every((value, k) => value === valueOf(k < end ? 0 : 1, i)), `tensor ${i}`);
  }));

Deno.test("the next bucket is read while two are exchanged, in memory that is used again", async () => {
  await using backend = createReferenceBackend();
  const tensors = Array.from({ length: 6 }, () => backend.empty([5 * MI], "gradients"));
  const buffers = new Set<ArrayBufferLike>();
  const underWayAtReads: number[] = [];
  let underWay = 0;
  const readAll = backend.readAll.bind(backend);
  backend.readAll = (bucket, into) => {
    underWayAtReads.push(underWay);
    into!.forEach(({ buffer }) => buffers.add(buffer));
    return readAll(bucket, into);
  };
  const slow = {
    size: 2,
    memory: new SharedMemory(),
    async allReduce(): Promise<void> {
      underWay++;
      await new Promise((resolve) => setTimeout(resolve, 100));
      underWay--;
    },
  } as unknown as ProcessGroup;
  for (let time = 0; time < 2; time++) await allReduceGradients(backend, slow, tensors);
  assertEquals([underWayAtReads.length, Math.max(...underWayAtReads)], [12, 2]);
  assertEquals(buffers.size, 3);
  tensors.forEach((tensor) => tensor.free());
});

Deno.test("a failure ends an exchange once nothing uses the tensors any more", async () => {
  const [group, other] = createLoopbackGroups(2);
  await using backend = createReferenceBackend();
  const tensors = SIZES.map((size) => backend.empty([size], "gradients"));
  const exchanged = assertRejects(() => allReduceGradients(backend, group, tensors), PeerError, "the disk is full");
  await other.allReduce(new Float32Array(SIZES[0]));
  other.abort(new Error("the disk is full"));
  await exchanged;
  tensors.forEach((tensor) => tensor.free());
  await Promise.all([group.close(), other.close()]);
});
