import { assert, assertEquals, assertLess, assertRejects } from "@std/assert";
import { PIECE_FLOATS } from "../../packages/core/transport/collectives.ts";
import { PeerError } from "../../packages/core/transport/errors.ts";
import { delay, TRANSPORTS, withGroups } from "./_groups.ts";

for (const transport of TRANSPORTS) {
  Deno.test(`${transport.name}: an abort ends every rank with the reason`, () =>
    withGroups(transport, 4, async (groups) => {
      for (const group of groups) group.step = 7;
      const pending = groups.slice(1).map((group) =>
        assertRejects(() => group.recv(group.rank - 1, "activations"), PeerError)
      );
      await delay(20);
      groups[2].abort(new TypeError("the disk is full"));
      const errors = await Promise.all(pending);
      for (const [i, { message, kind, peer, origin, step, operation }] of errors.entries()) {
        // Where ranks run in threads of their own, another one may pass the news on before rank 2 itself is heard.
        if (!transport.threads) assertEquals(peer, 2);
        const other = peer === i ? "" : ` with rank ${i}`;
        assertEquals(
          message,
          `Rank ${peer} aborted the run during recv "activations"${other} at step 7: TypeError: the disk is full`,
        );
        assertEquals([kind, origin, step, operation], ["aborted", 2, 7, `recv "activations"`]);
      }
      await assertRejects(() => groups[0].allReduce(new Float32Array(1)), PeerError, "TypeError: the disk is full");
      for (const { signal } of groups) assert(signal.reason instanceof PeerError);
      groups[2].abort(new Error("again"));
      groups[0].abort(new Error("after the end"));
      await assertRejects(() => groups[2].barrier(), PeerError, "TypeError: the disk is full");
    }));

  Deno.test(`${transport.name}: an abort because of another rank's failure keeps its origin`, () =>
    withGroups(transport, 2, async ([first, second]) => {
      const failure = { peer: 5, kind: "closed", detail: "gone", origin: 6 } as const;
      const pending = assertRejects(() => second.recv(0, "x"), PeerError);
      first.abort(new PeerError(failure, { name: "recv", step: 1 }));
      const error = await pending;
      assertEquals([error.peer, error.origin], [0, 6]);
      assertEquals(
        error.message,
        `Rank 0 aborted the run during recv "x" at step 0: Rank 5 left during recv at step 1: gone`,
      );
    }));

  Deno.test(`${transport.name}: messages received before a failure are not handed out after it`, () =>
    withGroups(transport, 2, async ([first, second]) => {
      await first.send(1, new Uint8Array(1), "x");
      await delay(20);
      first.abort(new Error("enough"));
      while (!second.signal.aborted) await delay(5);
      await assertRejects(() => second.recv(0, "x"), PeerError, "Error: enough");
    }));

  Deno.test(`${transport.name}: to want more of a rank that has left in order is a failure`, () =>
    withGroups(transport, 3, async (groups) => {
      const waiting = assertRejects(() => groups[1].recv(0, "x"), PeerError, `Rank 0 left during recv "x" at step 0: `);
      const third = assertRejects(() => groups[2].recv(1, "y"), PeerError, `Rank 1 aborted the run during recv "y"`);
      const closing = groups[0].close();
      assertEquals((await waiting).kind, "closed");
      assertEquals((await third).origin, 0);
      await closing;
    }));

  Deno.test(`${transport.name}: a rank that has left can be sent no more`, () =>
    withGroups(transport, 2, async ([first, second]) => {
      await first.close();
      await delay(20);
      await assertRejects(() => second.send(0, new Uint8Array(1), "x"), PeerError, `Rank 0 left during send "x"`);
    }));

  Deno.test(`${transport.name}: closing rejects what is pending here and what follows, twice is once`, () =>
    withGroups(transport, 2, async ([first, second]) => {
      const pending = assertRejects(() => first.recv(1, "x"), PeerError, "this rank has closed its process group");
      const [one, two] = [first.close(), first.close()];
      await Promise.all([pending, one, two]);
      await assertRejects(() => first.send(1, new Uint8Array(1), "x"), PeerError, "has closed its process group");
      assert(!first.signal.aborted && !second.signal.aborted, "an orderly leave is no failure");
    }));

  Deno.test(`${transport.name}: ranks of different opinions on a length are told`, async () => {
    // A few floats, of which no two segments are as long; whole pieces of which one rank has more; a piece with and
    // without a rest.
    for (const [length, other] of [[4, 8], [4 * PIECE_FLOATS, 6 * PIECE_FLOATS], [2 * PIECE_FLOATS, 4e6]]) {
      for (const name of ["allReduce", "reduceScatter"] as const) {
        const says = "the ranks must pass equal lengths";
        await withGroups(transport, 2, async ([first, second]) => {
          await Promise.all([
            assertRejects(() => first[name](new Float32Array(length)), RangeError, says),
            assertRejects(() => second[name](new Float32Array(other)), RangeError, says),
          ]);
        });
      }
    }
  });

  Deno.test(`${transport.name}: a message that never comes is a timeout`, () =>
    withGroups(transport, 2, async ([first]) => {
      const error = await assertRejects(
        () => first.recv(1, "x"),
        PeerError,
        `Rank 1 stopped answering during recv "x"`,
      );
      assertEquals(error.kind, "timeout");
    }, { timeoutMs: 500 })); // long enough for workers to meet

  Deno.test(`${transport.name}: a failed run closes soon`, () =>
    withGroups(transport, 4, async (groups) => {
      for (const group of groups) group.abort(new Error("all at once"));
      const startMs = performance.now();
      await Promise.all(groups.map((group) => group.close()));
      assertLess(performance.now() - startMs, 1000);
    }));
}
