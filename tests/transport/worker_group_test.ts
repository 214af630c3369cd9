import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { SharedMemory } from "../../packages/core/transport/shared_memory.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import { patternBytes, sameBytes, TRANSPORTS, withGroups } from "./_groups.ts";

const WORKERS = TRANSPORTS.find(({ name }) => name === "workers")!;

function withWorkers(size: number, body: (groups: ProcessGroup[]) => Promise<void>): Promise<void> {
  return withGroups(WORKERS, size, body);
}

Deno.test("an exchange goes on while this thread is blocked, and sums where the data lies", () =>
  withWorkers(3, async (groups) => {
    const memory = new SharedMemory();
    const data = groups.map(({ rank }) => memory.floats(1_000_000).fill(rank + 1));
    const sums = groups.map((group, rank) => group.allReduce(data[rank]));
    const deadlineMs = performance.now() + 20_000;
    // No turn of the event loop until every rank has its sum.
    while (!data.every((values) => values[0] === 6 && values[500_000] === 6 && values[999_999] === 6)) {
      assert(performance.now() < deadlineMs, "the ranks do not exchange while this thread is blocked");
    }
    await Promise.all(sums);
    assert(data.every((values) => values.every((value) => value === 6)));
  }));

Deno.test("a part of shared memory is sent as it lies, and the rest of it stays here", () =>
  withWorkers(2, async ([first, second]) => {
    for (const length of [5, 100_000, 17 * 2 ** 20]) {
      const whole = new SharedMemory().bytes(length + 20);
      whole.set(patternBytes(length + 20, 1));
      const [received] = await Promise.all([
        second.recv(0, "part"),
        first.send(1, whole.subarray(10, 10 + length), "part"),
      ]);
      assert(sameBytes(received, patternBytes(length + 20, 1).subarray(10, 10 + length)));
      assertEquals([received.byteOffset, received.buffer.byteLength], [0, length]);
      assert(received.buffer instanceof ArrayBuffer);
    }
  }));

Deno.test("data that is not shared is as it was after it was sent, and may be sent again", () =>
  withWorkers(2, async ([first, second]) => {
    const data = patternBytes(100_000, 1);
    for (let time = 0; time < 2; time++) {
      const [received] = await Promise.all([second.recv(0, "x"), first.send(1, data, "x")]);
      assert(sameBytes(received, patternBytes(100_000, 1)));
    }
    assert(sameBytes(data, patternBytes(100_000, 1)));
  }));

Deno.test("shared memory that was given back is handed out again, for about as many bytes", () => {
  const memory = new SharedMemory();
  const [large, small] = [memory.floats(1_000_000), memory.bytes(200_000)];
  memory.give(large);
  memory.give(small);
  assert(memory.bytes(10).buffer !== small.buffer, "a small array does not take up large memory");
  assert(memory.bytes(3_000_000).buffer === large.buffer);
  assert(memory.bytes(190_000).buffer === small.buffer);
  assert(memory.bytes(190_000).buffer !== small.buffer, "what is in use is not handed out");
  assertEquals(memory.floats(7).length, 7);
});

Deno.test("a worker that cannot be loaded is an error of the connection", async () => {
  const module = new URL("../../packages/core/transport/worker_group.ts", import.meta.url);
  const code = `
    import { connectWorkerGroup } from "${module}";
    await connectWorkerGroup({ rank: 0, size: 2, token: "x" }).catch((error) => console.log("rejected:", error.message));`;
  const script = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(script, code);
    const args = ["run", "--allow-net", "--no-prompt", "--no-lock", script];
    const { stdout } = await new Deno.Command(Deno.execPath(), { args, env: { NO_COLOR: "1" } }).output();
    const text = new TextDecoder().decode(stdout);
    assertStringIncludes(text, "rejected: Cannot go on without the worker of the transport: ");
    assertStringIncludes(text, "read access");
  } finally {
    await Deno.remove(script);
  }
});
