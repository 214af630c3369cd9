/** What a ring holds on the host, and for how long. */

import { assertEquals } from "@std/assert";
import {
  type AttentionCore,
  createLoopbackGroups,
  createReferenceBackend,
  ExchangeClock,
  type ProcessGroup,
  SharedMemory,
  zeros,
  zigZagPartition,
} from "@mst/core";
import { createRingAttention } from "../../packages/ring/ring_attention.ts";

const RANKS = 3;
const SHAPE = { batch: 2, heads: 4, kvHeads: 2, headDim: 4, scale: 0.5 };

/** Counts the arrays that are out. */
class CountedMemory extends SharedMemory {
  out = 0;

  override floats(length: number): Float32Array<SharedArrayBuffer> {
    this.out++;
    return super.floats(length);
  }

  override give(view: ArrayBufferView<SharedArrayBuffer>): void {
    this.out--;
    super.give(view);
  }
}

/** A group that remembers the messages it handed out. */
function recording(group: ProcessGroup): { group: ProcessGroup; unreleased: () => number } {
  const messages: Uint8Array[] = [];
  const recorded: ProcessGroup = Object.create(group, {
    rank: { value: group.rank },
    size: { value: group.size },
    send: { value: group.send.bind(group) },
    recv: {
      value: async (from: number, label: string) => {
        const message = await group.recv(from, label);
        messages.push(message);
        return message;
      },
    },
  });
  return { group: recorded, unreleased: () => messages.filter(({ byteLength }) => byteLength > 0).length };
}

interface Held {
  /** Arrays of shared memory that are not given back. */
  readonly arrays: number;
  /** Messages that were received and not freed. */
  readonly messages: number;
}

type Forward = Awaited<ReturnType<AttentionCore["forward"]>>;

/** Runs attention on every rank; tells what each holds on the host after forward, and after `end`. */
async function hold(
  backwardIsNext: boolean,
  end: (core: AttentionCore, forward: Forward) => Promise<void>,
): Promise<{ between: Held[]; after: Held[] }> {
  const partition = zigZagPartition(24, RANKS);
  const reports = await Promise.all(
    createLoopbackGroups(RANKS).map(async (plain) => {
      const { group, unreleased } = recording(plain);
      const memory = new CountedMemory();
      const held = async (): Promise<Held> => {
        await plain.barrier(); // so that what was sent is taken
        return { arrays: memory.out, messages: unreleased() };
      };
      await using backend = createReferenceBackend();
      const rows = SHAPE.batch * partition.positions[group.rank].length;
      const matrix = (heads: number) => zeros(backend, [rows, heads * SHAPE.headDim], "activations");
      const core = createRingAttention({ backend, group, clock: new ExchangeClock(), memory, shape: SHAPE, partition });
      const forward = await core.forward(matrix(4), matrix(2), matrix(2), { backwardIsNext });
      const between = await held();
      await end(core, forward);
      const after = await held();
      core[Symbol.dispose]();
      assertEquals(backend.ledger.liveBytes(), 0);
      await plain.close();
      return { between, after };
    }),
  );
  return { between: reports.map(({ between }) => between), after: reports.map(({ after }) => after) };
}

/** Backward of zeros. */
async function backward(core: AttentionCore, { out, saved }: Forward): Promise<void> {
  out.free();
  const gradients = await core.backward(saved.tensors[0].share(), saved);
  for (const tensor of Object.values(gradients)) tensor.free();
}

function everyRank(held: Held): Held[] {
  return Array.from({ length: RANKS }, () => held);
}

const NOTHING = everyRank({ arrays: 0, messages: 0 });

Deno.test("until a backward to come, a rank holds its own k and v on the host, and nothing of others", async () => {
  const { between, after } = await hold(false, backward);
  assertEquals(between, everyRank({ arrays: 2, messages: 0 }));
  assertEquals(after, NOTHING);
});

Deno.test("right before backward a rank holds the k and v of the others on the host, and not its own", async () => {
  const { between, after } = await hold(true, backward);
  assertEquals(between, everyRank({ arrays: 0, messages: 2 * (RANKS - 1) }));
  assertEquals(after, NOTHING);
});

Deno.test("without a backward what was saved gives the memory of the host back", async () => {
  for (const backwardIsNext of [false, true]) {
    const { after } = await hold(backwardIsNext, (_, { out, saved }) => {
      out.free();
      saved.free();
      return Promise.resolve();
    });
    assertEquals(after, NOTHING);
  }
});

Deno.test("where only the output is kept, the host holds nothing until k and v are there again", async () => {
  const { after } = await hold(false, (core, { out, saved }) => {
    out.free();
    core.keep(saved).free(); // which holds tensors alone
    return Promise.resolve();
  });
  assertEquals(after, NOTHING);
  const ends = [
    backward,
    async (_: AttentionCore, { out, saved }: Forward) => {
      out.free();
      saved.free();
      await new Promise((resolve) => setTimeout(resolve, 10)); // the read that has started has to end
    },
  ];
  for (const end of ends) {
    const { after } = await hold(false, async (core, { out, saved }) => {
      const [q, k, v] = saved.tensors.slice(0, 3).map((tensor) => tensor.share());
      await end(core, { out, saved: await core.rematerialize(q, k, v, core.keep(saved)) });
    });
    assertEquals(after, NOTHING);
  }
});
